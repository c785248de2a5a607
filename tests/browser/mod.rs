//! A headless Chromium, driven by its WebDriver (W3C, "WebDriver", 2018) over HTTP.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// What to do where a program of these tests is missing.
const INSTALL: &str = "run `scripts/install-chromium` (Debian, as root), or install Chromium, \
                       its driver and poppler-utils by hand";

/// A session in a browser of its own. It ends with this value.
pub struct Browser {
    driver: Child,
    session: String,
}

impl Browser {
    /// Starts the driver and opens a window.
    pub fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .args(["--port=0", "--log-level=SEVERE"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|why| panic!("chromedriver does not start ({why}): {INSTALL}"));
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            line.split_once("successfully on port ")?
                .1
                .trim_end_matches('.')
                .parse::<u16>()
                .ok()
        });
        let port = port.unwrap_or_else(|| panic!("chromedriver names no port: {INSTALL}"));
        let url = format!("http://127.0.0.1:{port}/session");
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"];
        let options = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let mut browser = Browser { driver, session: url };
        let session = browser.post("", options);
        let id = session["sessionId"].as_str();
        let id = id.unwrap_or_else(|| panic!("no Chromium opens: {session}; {INSTALL}"));
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    /// Sends a command; its value, or the driver's error.
    fn post(&self, path: &str, body: Value) -> Value {
        let request = minreq::post(format!("{}{path}", self.session));
        let response = request.with_body(body.to_string()).send();
        let response = response.unwrap_or_else(|why| panic!("{path}: {why}"));
        let mut value: Value = serde_json::from_slice(response.as_bytes()).unwrap();
        value["value"].take()
    }

    /// Opens a file.
    pub fn open(&self, page: &Path) {
        let url = format!("file://{}", page.canonicalize().unwrap().display());
        assert_eq!(self.post("/url", json!({"url": url})), Value::Null);
    }

    /// What a function's body returns in the page.
    pub fn run(&self, script: &str) -> Value {
        let value = self.post("/execute/sync", json!({"script": script, "args": []}));
        assert!(value.get("error").is_none(), "{script}: {value}");
        value
    }

    /// A command of the browser's own protocol.
    pub fn command(&self, name: &str, parameters: Value) -> Value {
        let value =
            self.post("/goog/cdp/execute", json!({"cmd": name, "params": parameters}));
        assert!(value.get("error").is_none(), "{name}: {value}");
        value
    }

    /// Sets the window's inside, in pixels.
    pub fn resize(&self, width: u64, height: u64) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.command("Emulation.setDeviceMetricsOverride", size);
    }

    /// Sets a media feature.
    pub fn prefer(&self, feature: &str, value: &str) {
        let features = json!({"features": [{"name": feature, "value": value}]});
        self.command("Emulation.setEmulatedMedia", features);
    }

    /// The first element of a selector, as WebDriver refers to it.
    fn element(&self, selector: &str) -> Value {
        let by = json!({"using": "css selector", "value": selector});
        let element = self.post("/element", by);
        assert!(element.get("error").is_none(), "{selector}: {element}");
        element
    }

    /// Moves the mouse onto an element, and presses its button if wanted.
    pub fn point_at(&self, selector: &str, presses: bool) {
        // What comes into view gets its true size only then, which moves what is below it.
        let centre = "const [element, done] = arguments;
            let left = 3;
            const step = () => {
              element.scrollIntoView({block: 'center', behavior: 'instant'});
              left -= 1;
              if (left) requestAnimationFrame(step); else done();
            };
            step();";
        let origin = self.element(selector);
        let moved =
            self.post("/execute/async", json!({"script": centre, "args": [origin]}));
        assert_eq!(moved, Value::Null, "{selector}");
        let mut actions = vec![
            json!({"type": "pointerMove", "duration": 0, "x": 0, "y": 0, "origin": origin}),
        ];
        if presses {
            actions.push(json!({"type": "pointerDown", "button": 0}));
            actions.push(json!({"type": "pointerUp", "button": 0}));
        }
        let mouse = json!({"type": "pointer", "id": "mouse", "actions": actions});
        let value = self.post("/actions", json!({"actions": [mouse]}));
        assert_eq!(value, Value::Null, "{selector}");
    }

    /// Presses and releases keys, one after the other.
    pub fn press(&self, keys: &str) {
        let actions = keys.chars().flat_map(|key| {
            let key = key.to_string();
            [
                json!({"type": "keyDown", "value": key}),
                json!({"type": "keyUp", "value": key}),
            ]
        });
        let keyboard =
            json!({"type": "key", "id": "keys", "actions": actions.collect::<Vec<_>>()});
        assert_eq!(self.post("/actions", json!({"actions": [keyboard]})), Value::Null);
    }

    /// What the console was told so far, by level and message.
    pub fn console(&self) -> Vec<String> {
        let entries = self.post("/se/log", json!({"type": "browser"}));
        let entries =
            entries.as_array().unwrap_or_else(|| panic!("no log: {entries}")).clone();
        entries.iter().map(|e| format!("{}: {}", e["level"], e["message"])).collect()
    }

    /// Saves the window as it looks, where `RIDGEPOINT_SCREENSHOTS` names a folder.
    pub fn screenshot(&self, name: &str) {
        let Some(folder) = std::env::var_os("RIDGEPOINT_SCREENSHOTS") else { return };
        let text = self.command("Page.captureScreenshot", json!({"format": "png"}));
        let path = Path::new(&folder).join(format!("{name}.png.base64"));
        std::fs::write(path, text["data"].as_str().unwrap()).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = minreq::delete(self.session.as_str()).send();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The words of a page as it is printed.
pub fn printed_text(page: &Path, folder: &Path) -> String {
    let pdf = folder.join("printed.pdf");
    let status = Command::new("chromium")
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"])
        .arg(format!("--print-to-pdf={}", pdf.display()))
        .arg(format!("file://{}", page.canonicalize().unwrap().display()))
        .stderr(Stdio::null())
        .status()
        .unwrap_or_else(|why| panic!("chromium does not start ({why}): {INSTALL}"));
    assert!(status.success(), "printing fails: {status}");
    let output = Command::new("pdftotext").arg("-layout").arg(&pdf).arg("-").output();
    let output =
        output.unwrap_or_else(|why| panic!("pdftotext does not start ({why}): {INSTALL}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
