//! How a declaration becomes a metric, for each type there is.

use prometheus::core::Collector;
use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// The value of label `route`: one direction. The way back will be a second one.
pub const ROUTE: &str = "to_supabase";

/// What a metric is about; those of a route carry its name as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Process,
    Route,
}

/// A declared metric, for the pages that must know it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub group: &'static str,
    pub scope: Scope,
    /// With its prefix.
    pub name: &'static str,
    pub kind: &'static str,
    /// Each with the values it takes.
    pub labels: Labels,
    pub help: &'static str,
}

/// Names, each with the values that it takes.
pub type Labels = &'static [(&'static str, &'static str)];

fn names(labels: Labels) -> Vec<&'static str> {
    labels.iter().map(|(name, _)| *name).collect()
}

/// The values of a label that are known beforehand. They are there from the start: a rate needs a zero to rise from.
fn known(labels: Labels) -> impl Iterator<Item = &'static str> {
    let only = match labels {
        [(name, values)] if *name != "table" && *name != "version" => *values,
        _ => "",
    };
    only.split(", ").filter(|value| !value.is_empty())
}

pub(super) trait Make {
    const KIND: &'static str;
    fn make(registry: &Registry, scope: Scope, name: &str, help: &str, labels: Labels) -> Self;
}

/// A gauge that is absent while its value is not known: no made-up zero, and no NaN that poisons an average.
pub struct Maybe(GaugeVec);

impl Maybe {
    pub fn set(&self, value: Option<f64>) {
        match value {
            Some(value) => self.0.with_label_values::<&str>(&[]).set(value),
            None => self.0.reset(),
        }
    }

    pub fn get(&self) -> Option<f64> {
        let families = self.0.collect();
        families.first()?.get_metric().first().map(|metric| metric.get_gauge().get_value())
    }
}

/// The same for each value of a label.
pub struct MaybeVec(GaugeVec);

impl MaybeVec {
    pub fn set(&self, label: &str, value: f64) {
        self.0.with_label_values(&[label]).set(value);
    }

    pub fn reset(&self) {
        self.0.reset();
    }
}

fn opts(scope: Scope, name: &str, help: &str) -> Opts {
    let opts = Opts::new(name, help).namespace("lockstep");
    match scope {
        Scope::Process => opts,
        Scope::Route => opts.const_label("route", ROUTE),
    }
}

/// A wrong or doubled name in the declarations is a mistake of ours that the first call of any test shows.
#[allow(clippy::expect_used)]
fn add<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let metric = made.expect("a metric's name and labels are well formed");
    registry.register(Box::new(metric.clone())).expect("a metric is declared once");
    metric
}

/// Implements `Make`: plain ones take options, those with labels their names too.
macro_rules! make {
    (plain $($type:ident $kind:literal),*) => {$(
        impl Make for $type {
            const KIND: &'static str = $kind;
            fn make(registry: &Registry, scope: Scope, name: &str, help: &str, _: Labels) -> Self {
                add(registry, $type::with_opts(opts(scope, name, help)))
            }
        }
    )*};
    (labelled $($type:ident $kind:literal),*) => {$(
        impl Make for $type {
            const KIND: &'static str = $kind;
            fn make(registry: &Registry, scope: Scope, name: &str, help: &str, labels: Labels) -> Self {
                let made = add(registry, $type::new(opts(scope, name, help), &names(labels)));
                known(labels).for_each(|value| _ = made.with_label_values(&[value]));
                made
            }
        }
    )*};
    (wrapped $($type:ident),*) => {$(
        impl Make for $type {
            const KIND: &'static str = "gauge";
            fn make(registry: &Registry, scope: Scope, name: &str, help: &str, labels: Labels) -> Self {
                Self(add(registry, GaugeVec::new(opts(scope, name, help), &names(labels))))
            }
        }
    )*};
}

make!(plain IntGauge "gauge", Gauge "gauge", IntCounter "counter", Counter "counter");
make!(labelled IntGaugeVec "gauge", IntCounterVec "counter");
make!(wrapped Maybe, MaybeVec);

/// From the millisecond of a project next door to the minute of one in trouble.
const BUCKETS: [f64; 18] =
    [0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

impl Make for Histogram {
    const KIND: &'static str = "histogram";
    fn make(registry: &Registry, scope: Scope, name: &str, help: &str, _: Labels) -> Self {
        let opts = HistogramOpts::from(opts(scope, name, help)).buckets(BUCKETS.to_vec());
        add(registry, Histogram::with_opts(opts))
    }
}
