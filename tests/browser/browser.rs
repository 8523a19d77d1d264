//! A headless Chromium, told what to do a line at a time (`driver.mjs`). What it waits for has a deadline of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Above every wait of the driver.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Browser {
    _child: Child,
    wishes: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// Where `make tools` puts what npm gives: beside other caches, so that every clone shares it.
fn modules() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map_or_else(home, PathBuf::from);
    cache.join("lockstep/browser/node_modules")
}

fn chromium() -> PathBuf {
    if let Some(given) = std::env::var_os("LOCKSTEP_CHROMIUM") {
        return given.into();
    }
    let known = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    known.iter().map(PathBuf::from).find(|path| path.exists()).expect("no Chromium: run `make tools`")
}

impl Browser {
    pub async fn open(url: &str) -> Self {
        let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/driver.mjs");
        let modules = modules();
        assert!(modules.join("playwright-core").exists(), "{} is not there: run `make tools`", modules.display());
        let mut child = Command::new("node")
            .args([driver.as_os_str(), modules.as_os_str(), chromium().as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node runs");
        let (wishes, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut browser = Self { _child: child, wishes, answers: BufReader::new(answers).lines() };
        assert_eq!(browser.answer("start").await, "ready");
        browser.wish("open", json!({"url": url})).await;
        browser
    }

    pub async fn wish(&mut self, wish: &str, mut more: Value) -> Value {
        more["wish"] = wish.into();
        let line = format!("{more}\n");
        self.wishes.write_all(line.as_bytes()).await.unwrap();
        match self.answer(&line).await {
            Value::Object(error) => {
                let text = |name| error.get(name).and_then(Value::as_str).unwrap_or_default();
                panic!("{line}{}\nThe page says:\n{}", text("error"), text("page"))
            }
            value => value,
        }
    }

    async fn answer(&mut self, of: &str) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.answers.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("the browser does not answer: {of}")).unwrap();
        let answer: Value = serde_json::from_str(&line.expect("the browser runs")).unwrap();
        if answer["error"].is_string() { answer } else { answer["ok"].clone() }
    }

    pub async fn go(&mut self, url: &str) {
        self.wish("open", json!({"url": url})).await;
    }

    /// A view of the page that is open, by its fragment.
    pub async fn view(&mut self, fragment: &str) {
        self.wish("evaluate", json!({"script": format!("void (location.hash = {fragment:?})")})).await;
    }

    pub async fn click(&mut self, role: &str, name: &str) {
        self.wish("click", json!({"role": role, "name": name})).await;
    }

    /// In the dialog that is open.
    pub async fn press(&mut self, name: &str) {
        self.wish("click", json!({"role": "button", "name": name, "within": "dialog"})).await;
    }

    pub async fn fill(&mut self, label: &str, value: &str) {
        self.wish("fill", json!({"label": label, "value": value})).await;
    }

    pub async fn see(&mut self, text: &str) {
        self.wish("see", json!({"text": text})).await;
    }

    pub async fn see_in(&mut self, within: &str, text: &str) {
        self.wish("see", json!({"text": text, "within": within})).await;
    }

    /// Until the script is true; fails after `patience`.
    pub async fn until(&mut self, script: &str, patience: Duration) {
        let patience = patience.as_millis() as u64;
        self.wish("until", json!({"script": script, "patience": patience})).await;
    }

    pub async fn evaluate(&mut self, script: &str) -> Value {
        // An object would be taken for an error.
        self.wish("evaluate", json!({"script": script})).await
    }

    pub async fn look(&mut self, width: u32, height: u32, dark: bool) {
        self.wish("look", json!({"width": width, "height": height, "dark": dark})).await;
    }

    /// What the page complained about since it was asked last, less what the test expects.
    pub async fn problems(&mut self, expected: &[&str]) -> Vec<String> {
        let told = self.wish("problems", json!({})).await;
        let told = told.as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned());
        told.filter(|line| !expected.iter().any(|known| line.contains(known))).collect()
    }

    /// Nothing serious for people who read or operate the page otherwise, in dark and light, and nothing that is cut off
    /// on a narrow screen.
    pub async fn accessible(&mut self, what: &str) {
        for dark in [false, true] {
            self.look(1280, 860, dark).await;
            let found = self.wish("axe", json!({})).await;
            let lines: Vec<&str> = found.as_array().unwrap().iter().filter_map(Value::as_str).collect();
            assert!(lines.is_empty(), "{what}, dark {dark}:\n{}", lines.join("\n"));
        }
        self.look(360, 740, false).await;
        let over = self.evaluate("document.documentElement.scrollWidth - innerWidth").await;
        assert!(over.as_i64().unwrap() <= 0, "{what}: {over} pixels are cut off at 360");
        self.look(1280, 860, false).await;
    }

    /// A picture for the documentation, where `LOCKSTEP_SCREENSHOTS` asks for it.
    pub async fn shot(&mut self, name: &str, narrow: bool, dark: bool) {
        if std::env::var_os("LOCKSTEP_SCREENSHOTS").is_none() {
            return;
        }
        let (width, height) = if narrow { (360, 740) } else { (1280, 800) };
        self.look(width, height, dark).await;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures").join(format!("{name}.png"));
        self.wish("shot", json!({"path": path})).await;
        self.look(1280, 860, false).await;
    }
}
