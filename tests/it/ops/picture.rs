//! Draws what a dashboard shows, from a real Prometheus, as a picture for the docs: `LOCKSTEP_DRAW=1`. No Grafana is
//! needed to see whether its queries, units and legends make sense.

use super::panels::{BOARDS, Panel, board, filled};
use super::prometheus::{Prometheus, Series, root};

/// Pixels of one unit of Grafana's grid.
const CELL: (f64, f64) = (52.0, 34.0);
const COLOURS: [&str; 8] = ["#3b7dd8", "#2f9e5b", "#e07b39", "#b5485d", "#7a5cc2", "#138d90", "#a0812c", "#5d6d7e"];

pub async fn draw_when_asked(prometheus: &Prometheus, began: f64) {
    if std::env::var_os("LOCKSTEP_DRAW").is_none() {
        return;
    }
    for name in BOARDS {
        let panels = board(name);
        let height = panels.iter().map(|panel| panel.at[1] + panel.at[3]).max().unwrap_or(0) as f64 * CELL.1;
        let width = 24.0 * CELL.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
             font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#f4f5f7\"/>\n"
        );
        for panel in &panels {
            let mut series = Vec::new();
            for (query, legend) in &panel.queries {
                for one in prometheus.since(began, &filled(query, "faults")).await {
                    series.push((named(&one, legend), one));
                }
            }
            svg += &drawn(panel, &series);
        }
        svg += "</svg>\n";
        std::fs::write(root().join(format!("docs/pictures/grafana-{name}.svg")), svg).unwrap();
    }
}

fn named(series: &Series, legend: &str) -> String {
    let mut name = legend.to_owned();
    for (label, value) in &series.labels {
        name = name.replace(&format!("{{{{{label}}}}}"), value);
    }
    if name == "__auto" {
        series.labels.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(" ")
    } else {
        name
    }
}

fn drawn(panel: &Panel, series: &[(String, Series)]) -> String {
    let [x, y, w, h] = panel.at.map(|side| side as f64);
    let (x, y, w, h) = (x * CELL.0 + 3.0, y * CELL.1 + 3.0, w * CELL.0 - 6.0, h * CELL.1 - 6.0);
    if panel.kind == "row" {
        return format!(
            "<text x=\"{x}\" y=\"{}\" font-size=\"14\" font-weight=\"bold\">{}</text>\n",
            y + 18.0,
            panel.title
        );
    }
    let mut out = format!(
        "<g transform=\"translate({x:.0} {y:.0})\"><rect width=\"{w:.0}\" height=\"{h:.0}\" rx=\"4\" fill=\"white\" \
         stroke=\"#d8dce2\"/><text x=\"8\" y=\"16\" font-weight=\"bold\">{}</text>\n",
        panel.title
    );
    out += &match panel.kind.as_str() {
        "stat" => stat(series, &panel.unit, h),
        "table" => list(series, &panel.unit, h),
        "alertlist" => "<text x=\"8\" y=\"36\" fill=\"#777\">Grafana lists the alerts here.</text>\n".into(),
        _ => lines(series, &panel.unit, w, h),
    };
    out + "</g>\n"
}

fn stat(series: &[(String, Series)], unit: &str, h: f64) -> String {
    let Some((name, one)) = series.first() else { return String::new() };
    let value = one.values.last().map_or(0.0, |(_, value)| *value);
    let text =
        if unit == "none" && !name.contains(' ') && name.contains('.') { name.clone() } else { shown(value, unit) };
    format!("<text x=\"12\" y=\"{:.0}\" font-size=\"24\" fill=\"#26456e\">{text}</text>\n", h / 2.0 + 16.0)
}

fn list(series: &[(String, Series)], unit: &str, h: f64) -> String {
    let room = ((h - 30.0) / 15.0) as usize;
    let line = |(at, (name, one)): (usize, &(String, Series))| {
        let value = one.values.last().map_or(0.0, |(_, value)| *value);
        format!("<text x=\"12\" y=\"{}\">{name}: {}</text>\n", 34 + 15 * at, shown(value, unit))
    };
    series.iter().take(room).enumerate().map(line).collect()
}

fn lines(series: &[(String, Series)], unit: &str, w: f64, h: f64) -> String {
    let points = || series.iter().flat_map(|(_, one)| one.values.iter());
    let (from, to) = points().fold((f64::MAX, f64::MIN), |(a, b), (t, _)| (a.min(*t), b.max(*t)));
    let (low, top) = points().fold((0.0_f64, 1e-9_f64), |(a, b), (_, v)| (a.min(*v), b.max(*v)));
    let (left, bottom) = (64.0, h - 34.0);
    let x = |t: f64| left + (t - from) / (to - from).max(1.0) * (w - left - 12.0);
    let y = |v: f64| bottom - (v - low) / (top - low) * (bottom - 28.0);
    let mut out = String::new();
    for value in [low, (low + top) / 2.0, top] {
        let (at, text) = (y(value), shown(value, unit));
        out += &format!("<path d=\"M{left} {at:.1}H{:.0}\" stroke=\"#e6e9ed\"/>", w - 12.0);
        out += &format!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#777\">{text}</text>\n",
            left - 6.0,
            at + 4.0
        );
    }
    let mut legend = left;
    for (at, (name, one)) in series.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let mut before = f64::MIN;
        let path: String = one
            .values
            .iter()
            .map(|&(t, v)| {
                let step = if t - before > 1.5 { 'M' } else { 'L' }; // a gap stays a gap
                before = t;
                format!("{step}{:.1} {:.1}", x(t), y(v))
            })
            .collect();
        out += &format!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.4\"/>\n");
        let wide = 16.0 + 6.2 * name.len() as f64;
        if legend + wide < w {
            out +=
                &format!("<rect x=\"{legend:.0}\" y=\"{:.0}\" width=\"8\" height=\"8\" fill=\"{colour}\"/>", h - 20.0);
            out += &format!("<text x=\"{:.0}\" y=\"{:.0}\">{name}</text>\n", legend + 11.0, h - 12.0);
            legend += wide + 8.0;
        }
    }
    out
}

/// A number as Grafana's unit shows it, roughly.
fn shown(value: f64, unit: &str) -> String {
    let scaled = |steps: &[(f64, &str)], own: &str| {
        let step = steps.iter().find(|(least, _)| value.abs() >= *least);
        step.map_or(format!("{value:.1}{own}"), |(least, name)| format!("{:.1} {name}", value / least))
    };
    match unit {
        "bytes" | "Bps" => scaled(&[(1_073_741_824.0, "GiB"), (1_048_576.0, "MiB"), (1024.0, "KiB")], " B"),
        "s" if value.abs() < 1.0 => format!("{:.0} ms", value * 1e3),
        "s" => scaled(&[(86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s")], " s"),
        "percentunit" => format!("{:.0} %", value * 100.0),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}
