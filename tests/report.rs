//! report.html in a browser: it answers to the pointer, to the keyboard and to the printer,
//! and asks for nothing beside its own file.

mod browser;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use browser::{Browser, printed_text};
use serde_json::Value;
use tempfile::TempDir;

/// One browser at a time: a second one would slow the first down.
static ALONE: Mutex<()> = Mutex::new(());

/// The report of a committed campaign, made again in a folder of its own.
fn report(campaign: &str, folder: &TempDir) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(campaign);
    let is_record = |name: &str| name.ends_with(".csv") || name.ends_with(".gz");
    for entry in fs::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        if is_record(&entry.file_name().to_string_lossy()) {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    let program = env!("CARGO_BIN_EXE_ridgepoint");
    let output = Command::new(program).arg("report").arg(folder.path()).output().unwrap();
    let page = folder.path().join("report.html");
    assert!(page.is_file(), "{}", String::from_utf8_lossy(&output.stderr));
    page
}

/// Milliseconds from the beginning of the navigation until the script has run.
fn ready_ms(browser: &Browser, page: &Path) -> u64 {
    browser.open(page);
    let text = browser.run("return document.documentElement.dataset.ready");
    text.as_str().and_then(|ms| ms.parse().ok()).expect("the script ran to its end")
}

fn text_of(browser: &Browser, script: &str) -> String {
    browser.run(script).as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_page_works_in_a_browser() {
    let folder = tempfile::tempdir().unwrap();
    let page = report("2026-11-27-nvidia-h200-headline", &folder);
    let _alone = ALONE.lock().unwrap_or_else(|broken| broken.into_inner());
    let browser = Browser::start();
    browser.resize(1400, 1000);
    ready_ms(&browser, &page);
    needs_nothing_else(&browser);
    is_readable_by_machines(&browser);
    pointing_shows_the_row_and_its_command(&browser);
    keys_reach_every_mark(&browser);
    series_are_switched(&browser);
    tables_sort_filter_and_choose_columns(&browser);
    colours_follow_the_system_and_the_switch(&browser);
    a_narrow_window_has_no_overflow(&browser, &page);
    let console = browser.console();
    assert!(console.is_empty(), "{console:?}");
}

fn needs_nothing_else(browser: &Browser) {
    let fetched = browser.run("return performance.getEntriesByType('resource').length");
    assert_eq!(fetched, 0, "the page needs nothing but itself");
    browser.screenshot("wide-light");
}

/// Landmarks, headings of columns, captions, names of figures and of marks.
fn is_readable_by_machines(browser: &Browser) {
    let missing = browser.run(
        "const bad = [];
         for (const tag of ['header', 'nav', 'main', 'h1', 'a.skip'])
           if (document.querySelectorAll(tag).length !== 1) bad.push(tag);
         const nameless = (list, name) => [...list].filter((of) => !name(of)).forEach(
           (of) => bad.push(of.outerHTML.slice(0, 80)));
         nameless(document.querySelectorAll('th'), (th) => th.scope === 'col' && th.ariaSort);
         nameless(document.querySelectorAll('table'), (table) => table.caption?.textContent);
         nameless(document.querySelectorAll('figure > svg'), (svg) => svg.ariaLabel);
         nameless(document.querySelectorAll('.mark'), (mark) => mark.ariaLabel);
         nameless(document.querySelectorAll('button, input'),
           (of) => of.textContent || of.labels?.length);
         const ids = [...document.querySelectorAll('[id]')].map((of) => of.id);
         ids.filter((id, at) => ids.indexOf(id) !== at).forEach((id) => bad.push('twice ' + id));
         return bad",
    );
    assert_eq!(missing, Value::Array(Vec::new()));
    let marks = browser.run("return document.querySelectorAll('.mark[data-point]').length");
    assert!(marks.as_u64().unwrap() > 50, "{marks}");
}

fn pointing_shows_the_row_and_its_command(browser: &Browser) {
    browser.point_at("#roofline .mark[data-point]", false);
    assert_eq!(browser.run("return document.getElementById('card').hidden"), false);
    let card = text_of(browser, "return document.getElementById('card').textContent");
    for part in ["time ", "FLOP/s", "ridgepoint measure --device cuda:0"] {
        assert!(card.contains(part), "{card}");
    }
    browser.screenshot("hover");
    // A click keeps it open, with the way to the row.
    browser.point_at("#roofline .mark[data-point]", true);
    browser.point_at("h1", false);
    assert_eq!(browser.run("return document.getElementById('card').hidden"), false);
    browser.point_at("#card .actions button:nth-of-type(2)", true);
    let row = text_of(browser, "return document.querySelector('tr.found').dataset.command");
    assert!(card.contains(&row), "{card} and {row}");
    assert_eq!(browser.run("return document.getElementById('card').hidden"), true);
    // A row of points shows the same.
    browser.point_at("tr[data-row] td", true);
    let card = text_of(browser, "return document.getElementById('card').textContent");
    assert!(card.contains("ridgepoint measure"), "{card}");
    browser.press("\u{e00c}");
    assert_eq!(browser.run("return document.getElementById('card').hidden"), true);
}

/// Tab comes to each figure once, arrows go from mark to mark, Enter keeps the card.
fn keys_reach_every_mark(browser: &Browser) {
    browser.run("document.body.tabIndex = -1; document.body.focus()");
    browser.press("\u{e004}");
    assert_eq!(text_of(browser, "return document.activeElement.className"), "skip");
    browser.run("document.querySelector('#figures').tabIndex = -1; document.querySelector('#figures').focus()");
    browser.press("\u{e004}");
    let focused =
        "return document.activeElement.ariaLabel ?? document.activeElement.outerHTML";
    let first = text_of(browser, focused);
    browser.press("\u{e014}");
    let second = text_of(browser, focused);
    assert_ne!(first, second);
    let card = text_of(browser, "return document.getElementById('card').textContent");
    assert!(card.starts_with(&second), "{card} and {second}");
    browser.press("\u{e007}");
    let focused_button = "return document.activeElement.closest('#card')?.id ?? ''";
    assert_eq!(text_of(browser, focused_button), "card");
    browser.press("\u{e00c}");
    assert_eq!(text_of(browser, focused), second, "back where it was");
    let stops = browser.run(
        "return [...document.querySelectorAll('figure')].every(
           (figure) => figure.querySelectorAll('.mark[tabindex=\"0\"]').length === 1)",
    );
    assert_eq!(stops, true);
}

fn series_are_switched(browser: &Browser) {
    let visible = "return [...document.querySelectorAll('#roofline .mark')].filter(
        (mark) => mark.getClientRects().length).length";
    let all = browser.run(visible).as_u64().unwrap();
    browser.point_at("#roofline .toggles button", true);
    let some = browser.run(visible).as_u64().unwrap();
    assert!(0 < some && some < all, "{some} of {all}");
    let pressed = "return document.querySelector('#roofline .toggles button').ariaPressed";
    assert_eq!(text_of(browser, pressed), "false");
    browser.point_at("#roofline .toggles button", true);
    assert_eq!(browser.run(visible), all);
}

/// The table of decode's points, and which of its columns is the time.
const DECODE: &str = "const table = [...document.querySelectorAll('#points table')].find(
    (table) => table.caption.textContent.startsWith('decode attention'));
    const heads = [...table.querySelectorAll('th')];
    const at = heads.findIndex((th) => th.textContent === 'time');
    const rows = () => [...table.tBodies[0].rows].filter((row) => row.getClientRects().length);
    const times = () => rows().map((row) => Number(row.cells[at].dataset.v ?? NaN)).filter((t) => t);
    ";

fn tables_sort_filter_and_choose_columns(browser: &Browser) {
    let of_table = |script: &str| browser.run(&format!("{DECODE}{script}"));
    of_table(
        "heads[at].firstChild.id = 'by-time'; table.parentNode.parentNode.id = 'decode'",
    );
    let all = of_table("return rows().length").as_u64().unwrap();
    for (order, sign) in [("ascending", 1.0), ("descending", -1.0)] {
        browser.point_at("#by-time", true);
        assert_eq!(of_table("return heads[at].ariaSort"), order);
        let times = of_table("return times()");
        let times: Vec<f64> =
            times.as_array().unwrap().iter().filter_map(Value::as_f64).collect();
        assert!(times.len() > 10, "{times:?}");
        assert!(
            times.windows(2).all(|pair| sign * (pair[1] - pair[0]) >= 0.0),
            "{times:?}"
        );
    }
    browser.screenshot("sorted");
    browser.point_at("#decode input[type=search]", true);
    browser.press("ATTENTION_decode");
    let left = of_table("return rows().length").as_u64().unwrap();
    assert!(0 < left && left < all, "{left} of {all}");
    let words = of_table(
        "return rows().every((row) => row.textContent.includes('attention_decode'))",
    );
    assert_eq!(words, true);
    let state = text_of(
        browser,
        "return document.querySelector('#decode [role=status]').textContent",
    );
    assert_eq!(state, format!("{left} of {all} rows"));
    browser.run("document.querySelector('#decode summary').click()");
    let is_shown = "return heads[at].getClientRects().length > 0";
    assert_eq!(of_table(is_shown), true);
    of_table(
        "[...document.querySelectorAll('#decode details label')].find(
           (label) => label.textContent.trim() === 'time').querySelector('input').click()",
    );
    assert_eq!(of_table(is_shown), false);
}

fn colours_follow_the_system_and_the_switch(browser: &Browser) {
    let ground =
        || text_of(browser, "return getComputedStyle(document.body).backgroundColor");
    let mark = || {
        text_of(
            browser,
            "return getComputedStyle(document.querySelector('#roofline .mark > *')).fill",
        )
    };
    browser.prefer("prefers-color-scheme", "light");
    let (light, light_mark) = (ground(), mark());
    browser.prefer("prefers-color-scheme", "dark");
    let (dark, dark_mark) = (ground(), mark());
    assert_ne!((&light, &light_mark), (&dark, &dark_mark));
    browser.run("scrollTo(0, 0)");
    browser.screenshot("wide-dark");
    // The switch goes from the system's colours to light and then to dark ones.
    browser.point_at("#theme", true);
    assert_eq!((ground(), mark()), (light.clone(), light_mark));
    browser.prefer("prefers-color-scheme", "light");
    browser.point_at("#theme", true);
    assert_eq!((ground(), mark()), (dark, dark_mark));
    browser.point_at("#theme", true);
    assert_eq!(ground(), light);
    browser.prefer("prefers-reduced-motion", "reduce");
    let scroll = "return getComputedStyle(document.documentElement).scrollBehavior";
    assert_eq!(text_of(browser, scroll), "auto");
}

fn a_narrow_window_has_no_overflow(browser: &Browser, page: &Path) {
    browser.resize(400, 800);
    ready_ms(browser, page);
    let wide = browser.run("return document.documentElement.scrollWidth");
    assert!(wide.as_u64().unwrap() <= 400, "{wide}");
    browser.screenshot("narrow");
}

/// The largest committed campaign: its size, and how soon a reader can do something.
#[test]
fn the_paper_suites_page_is_small_and_fast() {
    let folder = tempfile::tempdir().unwrap();
    let page = report("2026-11-26-nvidia-h100-80gb-hbm3-paper", &folder);
    let size = fs::metadata(&page).unwrap().len();
    assert!(size < 3_000_000, "{size} bytes");
    let _alone = ALONE.lock().unwrap_or_else(|broken| broken.into_inner());
    let browser = Browser::start();
    browser.resize(1400, 1000);
    // Other programs may have the processor meanwhile, so the best of some loads counts.
    let loads: Vec<u64> = (0..6).map(|_| ready_ms(&browser, &page)).collect();
    let ready = loads.iter().copied().min().unwrap();
    eprintln!("{size} bytes, interactive after {loads:?} ms");
    assert!(ready < 1000, "interactive after {ready} ms");
    assert!(browser.console().is_empty());
    // Paper has what the screen has.
    let text = printed_text(&page, folder.path());
    assert!(text.contains("Is decode memory bound here?"), "{text}");
    let rows = browser
        .run(&format!("{DECODE}return rows().map((row) => row.cells[at].textContent)"));
    let mut times: Vec<String> =
        rows.as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect();
    times.retain(|time| !time.is_empty());
    assert!(times.len() > 50, "{}", times.len());
    let missing: Vec<&String> = times.iter().filter(|time| !text.contains(*time)).collect();
    assert!(missing.is_empty(), "not on paper: {missing:?}");
}
