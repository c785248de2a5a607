use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tiny_skia::Pixmap;

use std::fs;
use std::sync::LazyLock;

use super::fixture::{
    MadeUp, cpu, gpu, gpu_with_caches, gpu_without_sheet, h100_by_implementation,
};
use super::*;
use crate::analysis::Measured;
use crate::device::DeviceKind;
use crate::format::DType;
use crate::op::Op;
use crate::record::{CountedRow, CounterRow, Row, Status, Witnesses};

fn all(campaign: &Campaign) -> Vec<Figure> {
    let drawn = figures(campaign).into_iter().map(|(_, drawn)| drawn);
    let all: Vec<Figure> = drawn.filter_map(Result::ok).collect();
    // Without peers there is no figure of them.
    assert!(all.len() >= 3);
    all
}

fn reasons(campaign: &Campaign) -> Vec<Option<String>> {
    figures(campaign).into_iter().map(|(_, drawn)| drawn.err()).collect()
}

/// A campaign whose rows pass through `change`.
fn altered(of: &MadeUp, change: impl FnMut(&mut Row)) -> Campaign {
    let mut rows = of.rows.clone();
    rows.iter_mut().for_each(change);
    of.with_rows(rows)
}

/// The figure of this name.
fn named(campaign: &Campaign, name: &str) -> Figure {
    let (_, drawn) = figures(campaign).into_iter().find(|(of, _)| *of == name).unwrap();
    drawn.unwrap_or_else(|why| panic!("{name}: {why}"))
}

/// What the figure says, its lines joined.
fn words(figure: &Figure) -> String {
    let texts: Vec<&str> = figure.texts.iter().map(|(text, _)| text.as_str()).collect();
    texts.join(" ")
}

fn assert_is_sound(figure: &Figure) {
    for letters in [Letters::Text, Letters::Outlines] {
        roxmltree::Document::parse(&figure.picture.svg(letters)).unwrap();
    }
    for mark in &figure.marks {
        let inside = figure.panels.iter().any(|panel| panel.contains(*mark));
        assert!(inside, "{}: {mark:?} outside", figure.name);
    }
    let whole = layout::Rect::new(0.0, 0.0, figure.size.0, figure.size.1);
    for (i, (text, quad)) in figure.texts.iter().enumerate() {
        let inside = quad.0.iter().all(|corner| whole.contains(*corner));
        assert!(inside, "{}: `{text}` is clipped", figure.name);
        for (other, covered) in &figure.texts[i + 1..] {
            assert!(!quad.overlaps(covered), "{}: `{text}` on `{other}`", figure.name);
        }
        for mark in &figure.marks {
            let covered = quad.overlaps(&layout::Quad::around(*mark, 2.0));
            assert!(!covered, "{}: `{text}` on a point at {mark:?}", figure.name);
        }
    }
}

#[test]
fn nothing_overlaps_and_nothing_is_clipped() {
    for made in [cpu(), gpu(), gpu_without_sheet()] {
        for figure in all(&made.campaign()) {
            assert_is_sound(&figure);
        }
    }
}

/// A point is drawn as its operation is, in every figure: in the same colour and shape.
#[test]
fn an_operation_looks_the_same_in_all_figures() {
    let mut seen = std::collections::BTreeSet::new();
    for made in [cpu(), gpu(), h100_by_implementation()] {
        for figure in all(&made.campaign()) {
            for item in &figure.picture.items {
                let picture::Item::Marker(_, drawn, Some(tip)) = item else { continue };
                let tip = &tip.text;
                // `gemm:m=1,...` of a point, `kernel: gemm 1 x ...` of a ridge.
                let names = |op: &Op| {
                    tip.starts_with(&format!("{op}:")) || tip.contains(&format!(": {op} "))
                };
                let op = Op::ALL.into_iter().find(names).unwrap_or_else(|| panic!("{tip}"));
                let wanted = frame::marker(op, crate::point::CacheState::Cold);
                let (shape, colour) = (drawn.shape, drawn.colour);
                assert_eq!(
                    (shape, colour),
                    (wanted.shape, wanted.colour),
                    "{}",
                    figure.name
                );
                seen.insert((figure.name, op));
            }
        }
    }
    let figures: std::collections::BTreeSet<_> =
        seen.iter().map(|(name, _)| *name).collect();
    assert!(figures.len() >= 4, "{seen:?}");
    assert!(seen.contains(&("roofline", Op::DecodeAttention)), "{seen:?}");
}

/// Each is in the CSV file; of many in one panel some have marks, and the panel says so.
#[test]
fn every_measured_kernel_is_a_point_of_the_roofline() {
    for campaign in [cpu(), gpu()].map(|made| made.campaign()) {
        let computes = |p: &&Measured| p.work.flops() > 0 && p.problem.op() != Op::Peak;
        let expected = campaign.points.iter().filter(computes).count();
        let figure = named(&campaign, "roofline");
        let mut reader = csv::Reader::from_reader(figure.csv.as_bytes());
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        let of_model = |row: &&csv::StringRecord| &row[1] == "model";
        assert_eq!(rows.iter().filter(of_model).count(), expected);
        let drawn = rows.iter().filter(of_model).filter(|row| &row[7] == "true").count();
        assert_eq!(drawn, figure.marks.len());
        assert_eq!(
            drawn < expected,
            words(&figure).contains("every "),
            "{drawn} {expected}"
        );
    }
}

#[test]
fn many_points_are_thinned_and_counted() {
    let points: Vec<u32> = (0..212).collect();
    let (drawn, step) = table::thinned(&points, 60);
    assert_eq!((drawn[0], drawn[1], *drawn.last().unwrap()), (&0, &4, &211));
    assert_eq!(table::count_text(step, points.len()), "every 4th of 212 points");
    let (drawn, step) = table::thinned(&points[..60], 60);
    assert_eq!((drawn.len(), step), (60, None));
    assert_eq!(table::count_text(step, 1), "1 point");
    let ordinals = [2, 3, 11, 12, 21, 112].map(|step| table::count_text(Some(step), 9));
    let words: Vec<&str> = ordinals.iter().map(|t| t.split(' ').nth(1).unwrap()).collect();
    assert_eq!(words, ["2nd", "3rd", "11th", "12th", "21st", "112th"]);
}

/// No text is smaller than 6 points where the figure is as wide as a column.
#[test]
fn figures_are_legible_in_a_column() {
    let points_per_px = picture::MM_PER_PX / 25.4 * 72.0;
    for made in [cpu(), gpu(), h100_by_implementation()] {
        for figure in all(&made.campaign()) {
            assert!((figure.size.0 * picture::MM_PER_PX - 85.0).abs() < 1e-9);
            for item in &figure.picture.items {
                let picture::Item::Label(label) = item else { continue };
                assert!(label.size * points_per_px >= 6.0, "{}: {label:?}", figure.name);
            }
        }
    }
}

/// A campaign with another library's kernel beside each of its own, a tenth faster.
fn with_peers(of: &MadeUp, library: &str) -> MadeUp {
    let mut rows = of.rows.clone();
    rows.extend(of.rows.iter().map(|row| {
        let faster = |time: Option<f64>| time.map(|time| 0.9 * time);
        Row {
            kernel: "other".to_owned(),
            point_id: format!("{}-peer", row.point_id),
            implementation: library.to_owned(),
            time_s_median: faster(row.time_s_median),
            time_s_ci_lo: faster(row.time_s_ci_lo),
            time_s_ci_hi: faster(row.time_s_ci_hi),
            ..row.clone()
        }
    }));
    MadeUp { rows, ..of.clone() }
}

#[test]
fn peers_are_in_their_own_figure_alone() {
    for made in [cpu(), gpu()] {
        let with = with_peers(&made, "cuBLAS 13").campaign();
        let (before, after) = (all(&made.campaign()), all(&with));
        // Rates of two kernels make a figure of ridges.
        assert_eq!(before.len() + 2, after.len());
        let peers = &named(&with, "peers");
        named(&with, "ridge");
        for a in before.iter().filter(|figure| figure.name != "power") {
            // Their times may raise ceilings, which moves what is drawn.
            let b = named(&with, a.name);
            assert_eq!(a.marks.len(), b.marks.len(), "{}", a.name);
        }
        assert_is_sound(peers);
        assert_eq!(peers.marks.len(), with.beside_peers().len());
        assert!(peers.svg.contains("other beside") || peers.svg.contains(" beside other"));
        // A few have room for labels.
        let mut few = with_peers(&made, "cuBLAS 13");
        few.rows.retain(|row| row.op == "prefill_attention");
        let few = named(&few.campaign(), "peers");
        assert_is_sound(&few);
        assert!(words(&few).contains(", by other"));
        // Another version of this program is no peer.
        let own = all(&with_peers(&made, "ridgepoint 9").campaign());
        assert!(own.iter().all(|figure| figure.name != "peers"));
    }
}

/// The roofs of an H100 by what drives its tensor cores.
#[test]
fn ridges_are_drawn_by_implementation() {
    let campaign = h100_by_implementation().campaign();
    let drawn = figures(&campaign).into_iter().find(|(name, _)| *name == "ridge").unwrap();
    let figure = drawn.1.unwrap();
    assert_is_sound(&figure);
    assert_eq!(figure.marks.len(), 4, "one for each kernel, none for the data sheet");
    for label in [
        "Ridge in bf16, by implementation",
        "peak: 632 TFLOP/s, ridge 209 FLOP/B, 2678 of 4096 per clock and SM",
        "cublaslt: 726 TFLOP/s, ridge 240 FLOP/B",
        "data sheet: 989 TFLOP/s, ridge 295 FLOP/B",
        "From 152 FLOP/B (gemm) to 255 FLOP/B (peak_wgmma)",
    ] {
        assert!(words(&figure).contains(label), "{label} in {}", words(&figure));
    }
    // Zeros clock higher, and are no ceiling.
    let zeros = Row {
        problem: "peak:unit=tensor,dtype=bf16,lanes=33792,steps=4096,data=zeros".into(),
        point_id: "zeros".into(),
        time_s_median: Some(1e-4),
        time_s_ci_lo: Some(1e-4),
        time_s_ci_hi: Some(1e-4),
        ..campaign.rows.iter().find(|row| row.kernel == "peak_wgmma").unwrap().clone()
    };
    let mut with_zeros = h100_by_implementation();
    with_zeros.rows.push(zeros);
    let found = with_zeros.campaign().ceilings.unwrap();
    assert_eq!(found.compute[&DType::Bf16].rate.value, 771e12);
}

#[test]
fn three_roofs_are_told_by_format() {
    let of_cpu = words(&named(&cpu().campaign(), "roofline"));
    for told in
        ["DRAM read: measured 31 GB/s.", "f32: measured 290 GFLOP/s (ridge 9.35 FLOP/B)."]
    {
        assert!(of_cpu.contains(told), "{told} in {of_cpu}");
    }
    let both = MadeUp { spec: gpu().spec, ..gpu_without_sheet() }.campaign();
    let of_gpu = words(&named(&both, "roofline"));
    for told in [
        "derived from clocks 3.35 TB/s, data sheet 3.35 TB/s.",
        "derived from clocks 1.07 PFLOP/s (ridge 319 FLOP/B), data sheet 989 TFLOP/s (ridge 295",
    ] {
        assert!(of_gpu.contains(told), "{told} in {of_gpu}");
    }
    assert!(!of_gpu.contains("fp8_e4m3"), "a ceiling that nothing uses");
}

#[test]
fn clocks_stand_in_for_a_data_sheet() {
    let campaign = gpu_without_sheet().campaign();
    assert!(
        words(&named(&campaign, "roofline")).contains("derived from clocks 1.07 PFLOP/s")
    );
    assert!(words(&named(&campaign, "bandwidth")).contains("derived 3.35 TB/s"));
    assert!(all(&campaign).iter().all(|figure| !figure.svg.contains("data sheet")));
    let nothing: Vec<Row> =
        gpu().rows.into_iter().filter(|row| row.op != "stream").collect();
    let unmeasured = gpu_without_sheet().with_rows(nothing);
    assert!(!words(&named(&unmeasured, "roofline")).contains("measured"));
}

#[test]
fn the_line_through_reads_from_dram_is_drawn_and_told() {
    let bandwidth = named(&gpu().campaign(), "bandwidth");
    assert!(bandwidth.svg.contains("read fit: 4 µs + bytes / 3.02 TB/s"));
    // The CPU's curve has two points beyond twice its cache.
    assert!(!named(&cpu().campaign(), "bandwidth").svg.contains("read fit"));
}

/// Reads by each core of its own share are a curve of their own, beside the capacity of the
/// caches that serve them; no other curve has their points.
#[test]
fn own_shares_are_a_curve_of_their_own() {
    let with = named(&gpu_with_caches().campaign(), "bandwidth");
    assert_is_sound(&with);
    let name = "read stream, each core its own share";
    let of = |figure: &Figure, series: &str| {
        let mut reader = csv::Reader::from_reader(figure.csv.as_bytes());
        let rows = reader.records().map(Result::unwrap);
        rows.filter(|row| row.iter().any(|cell| cell == series)).count()
    };
    assert_eq!(of(&with, name), 5);
    let told = words(&with);
    assert!(told.contains(name) && told.contains("L1 32 MiB"), "{told}");
    // Shared passes have the place of the read of the same set where they are faster.
    let without = named(&gpu().campaign(), "bandwidth");
    assert_eq!(of(&with, "read stream"), of(&without, "read stream"));
    assert_eq!(of(&without, name), 0);
    let told = words(&without);
    assert!(!told.contains(name) && !told.contains("L1 "), "{told}");
}

#[test]
fn output_is_deterministic() {
    let (first, second) = (all(&cpu().campaign()), all(&cpu().campaign()));
    for (a, b) in first.iter().zip(&second) {
        assert_eq!(a.svg, b.svg);
    }
    assert_eq!(
        raster::png(&first[1].picture).unwrap(),
        raster::png(&second[1].picture).unwrap()
    );
}

#[test]
fn simulated_campaigns_say_so_everywhere() {
    let simulated =
        altered(&cpu(), |row| row.device_kind = DeviceKind::Simulated.name().to_owned());
    for figure in all(&simulated) {
        assert!(figure.svg.contains(">SIMULATED<"));
    }
    assert!(!all(&cpu().campaign())[0].svg.contains("SIMULATED"));
}

#[test]
fn missing_records_give_reasons() {
    let full = cpu();
    let empty = full.with_rows(Vec::new());
    assert!(reasons(&empty).iter().all(Option::is_some));

    let skipped = altered(&full, |row| row.status = Some(Status::Skipped));
    assert!(reasons(&skipped).iter().all(Option::is_some));

    let no_streams: Vec<Row> =
        full.rows.iter().filter(|row| row.op != "stream").cloned().collect();
    let [roofline, oi, bandwidth, ..] = &reasons(&full.with_rows(no_streams))[..] else {
        panic!("four figures");
    };
    assert!(roofline.as_ref().unwrap().contains("no read stream"));
    assert_eq!(*oi, None, "the model needs no measured bandwidth");
    assert_eq!(*bandwidth, None);
}

#[test]
fn few_points_are_drawn_soundly() {
    let full = cpu();
    let first = |op: &str| full.rows.iter().find(|row| row.op == op).unwrap().clone();
    let is_ceiling = |row: &&Row| row.op == "stream" && row.residency == "dram";
    let ceiling = full.rows.iter().find(is_ceiling).unwrap();
    for op in ["gemm", "decode_attention", "prefill_attention", "stream"] {
        let few = full.with_rows(vec![ceiling.clone(), first(op)]);
        for (_, drawn) in figures(&few) {
            drawn.iter().for_each(assert_is_sound);
        }
    }
    let spec_only = gpu().with_rows(vec![first("gemm")]);
    assert_is_sound(figures(&spec_only)[0].1.as_ref().unwrap());
}

/// A campaign whose points have counters and counts of about the model's bytes.
fn witnessed(of: &MadeUp, seed: u64) -> Campaign {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut witnesses = Witnesses { counters: Some(Vec::new()), counted: Some(Vec::new()) };
    for row in &of.rows {
        if rng.random_bool(0.5) {
            continue;
        }
        let read = rng.random_range(0.5..3.0) * row.bytes_read_model as f64;
        let written = row.bytes_written_model as f64;
        witnesses.counters.get_or_insert_default().push(CounterRow {
            point_id: row.point_id.clone(),
            passes: Some(1),
            dram_bytes_read: Some(read),
            dram_bytes_read_min: Some(0.9 * read),
            dram_bytes_read_max: Some(1.2 * read),
            dram_bytes_written: Some(written),
            dram_bytes_written_min: Some(written),
            dram_bytes_written_max: Some(written),
            ..CounterRow::default()
        });
        witnesses.counted.get_or_insert_default().push(CountedRow {
            point_id: row.point_id.clone(),
            flops_counted: Some(2 * row.matrix_flops_model),
            bytes_counted: Some(row.bytes_read_model + row.bytes_written_model),
            ..CountedRow::default()
        });
    }
    of.with_witnesses(witnesses)
}

#[test]
fn witnesses_are_drawn_and_times_are_not() {
    for made in [cpu(), gpu()] {
        let bare = &named(&made.campaign(), "oi");
        assert!(bare.marks.is_empty(), "a time is no intensity");
        assert!(words(bare).contains("There are no hardware counters"));
        for seed in 0..4 {
            let campaign = witnessed(&made, seed);
            let figure = &named(&campaign, "oi");
            assert_is_sound(figure);
            assert_is_sound(&named(&campaign, "roofline"));
            assert!(!figure.marks.is_empty());
            for told in [
                "filled: hardware counters",
                "hollow: virtual machine",
                "(c) counted bytes",
            ] {
                assert!(figure.svg.contains(told), "{told}");
            }
        }
    }
}

/// A random part of a campaign with its times moved by up to three decades
/// either way, some with an interval that reaches zero.
fn shaken(of: &MadeUp, seed: u64) -> Campaign {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let keep = [0.02, 0.1, 0.5, 1.0][rng.random_range(0..4)];
    let decades = [0.0, 0.5, 3.0][rng.random_range(0..3)];
    let mut kept = of.rows.clone();
    kept.retain(|_| rng.random_bool(keep));
    for row in &mut kept {
        let factor = 10f64.powf(decades * rng.random_range(-1.0..1.0));
        let time = row.time_s_median.unwrap() * factor;
        row.time_s_median = Some(time);
        row.time_s_ci_lo =
            Some(if rng.random_bool(0.05) { 1e-3 * time } else { 0.7 * time });
        row.time_s_ci_hi = Some(1.5 * time);
    }
    of.with_rows(kept)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_part_of_a_campaign_is_drawn_soundly(seed in any::<u64>(), gpu in any::<bool>()) {
        let full: &LazyLock<MadeUp> = if gpu { &GPU } else { &CPU };
        for (_, drawn) in figures(&shaken(full, seed)) {
            drawn.iter().for_each(assert_is_sound);
        }
    }
}

/// The last number of a panel's axis was once drawn on the first of the next one.
#[test]
fn numbers_of_neighbouring_panels_do_not_meet() {
    for (_, drawn) in figures(&shaken(&CPU, 7_860_100_002_262_150_951)) {
        drawn.iter().for_each(assert_is_sound);
    }
}

/// The lowest number of an axis once lay on the first of the one below.
#[test]
fn numbers_of_both_axes_do_not_meet() {
    for (_, drawn) in figures(&shaken(&GPU, 13_958_117_598_597_755_894)) {
        drawn.iter().for_each(assert_is_sound);
    }
}

static CPU: LazyLock<MadeUp> = LazyLock::new(cpu);
static GPU: LazyLock<MadeUp> = LazyLock::new(gpu);

#[test]
fn names_from_records_are_escaped() {
    let hostile = altered(&cpu(), |row| {
        row.suite = "<script>alert('&')</script>".to_owned();
        row.reason = "\"<img>\"".to_owned();
    });
    for figure in all(&hostile) {
        roxmltree::Document::parse(&figure.svg).unwrap();
        assert!(!figure.svg.contains("<script>"));
    }
}

#[test]
fn everything_is_written_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let campaign = cpu().campaign();
    let drawn = figures(&campaign);
    let count = drawn.iter().filter(|(_, drawn)| drawn.is_ok()).count();
    for _ in 0..2 {
        let written = write_all(&drawn, folder.path()).unwrap();
        assert_eq!(written.len(), FORMS * count);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), FORMS * count);
    }
    for figure in all(&campaign) {
        let png = fs::read(folder.path().join(format!("{}.png", figure.name))).unwrap();
        let image = Pixmap::decode_png(&png).unwrap();
        let scale = f64::from(raster::SCALE);
        let expected = (scale * figure.size.0, (scale * figure.size.1).ceil());
        assert_eq!((image.width() as f64, image.height() as f64), expected);
        let svg = fs::read_to_string(folder.path().join(format!("{}.svg", figure.name)));
        let svg = svg.unwrap();
        assert!(svg.contains("width=\"85mm\"") && !svg.contains("var(--"));
    }
}

/// SVG, PNG, PDF and CSV.
const FORMS: usize = 4;

/// Linear light of a colour's red, green and blue.
fn light(colour: &str) -> [f64; 3] {
    let part = |at: usize| {
        let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    [1, 3, 5].map(part)
}

/// WCAG 2.2: contrast of two colours, from 1 to 21.
fn contrast(a: &str, b: &str) -> f64 {
    let luminance = |colour: &str| {
        let [r, g, b] = light(colour);
        0.2126 * r + 0.7152 * g + 0.0722 * b
    };
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// What readers see who lack a kind of cone, in linear light (Machado, Oliveira and Fernandes,
/// "A physiologically-based model for simulation of color vision deficiency", 2009, severity
/// 1): all see, then protanopia, deuteranopia and tritanopia.
const SIGHTS: [[[f64; 3]; 3]; 4] = [
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
];

/// A colour as a sight sees it, in OKLab (Ottosson 2020), where distances are those of sight.
fn seen(colour: &str, sight: &[[f64; 3]; 3]) -> [f64; 3] {
    let of = light(colour);
    let dot = |row: &[f64; 3], of: &[f64; 3]| row.iter().zip(of).map(|(a, b)| a * b).sum();
    let rgb = sight.map(|row| {
        let value: f64 = dot(&row, &of);
        value.clamp(0.0, 1.0)
    });
    let cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ];
    let cones = cones.map(|row| {
        let value: f64 = dot(&row, &rgb);
        value.cbrt()
    });
    let lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ];
    lab.map(|row| dot(&row, &cones))
}

/// On paper and on a dark ground: texts have a contrast of 4.5, marks of 3, and no two
/// colours of operations come close for readers of any sight.
#[test]
fn colours_are_legible_and_apart_for_all_readers() {
    use style::{FAINT, INK, PALETTE, PAPER, SHADES, SPEC, THEME, ThemeColour};
    for value in [|of: &ThemeColour| of.light, |of: &ThemeColour| of.dark] {
        let of = |light: &str| value(THEME.iter().find(|of| of.light == light).unwrap());
        for text in [INK, FAINT, SPEC] {
            assert!(contrast(of(text), of(PAPER)) >= 4.5, "{text}");
        }
        for mark in PALETTE {
            assert!(contrast(of(mark), of(PAPER)) >= 3.0, "{mark}");
        }
        for (ground, ink) in SHADES {
            assert!(contrast(of(ground), of(ink)) >= 4.5, "{ground}");
        }
        let hues = &PALETTE[..6];
        for (i, a) in hues.iter().enumerate() {
            for b in &hues[i + 1..] {
                for sight in &SIGHTS {
                    let (a, b) = (seen(of(a), sight), seen(of(b), sight));
                    let apart: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
                    assert!(apart.sqrt() > 0.1, "{a:?} {b:?}");
                }
            }
        }
    }
    // Shades keep their order without colour.
    let luminance = |(ground, _): &(&str, &str)| contrast(ground, "#000000");
    assert!(SHADES.windows(2).all(|pair| luminance(&pair[0]) > luminance(&pair[1])));
}

/// All colours of figures are of the theme, or they would stay as they are on a dark page.
#[test]
fn every_colour_has_a_dark_one() {
    for campaign in [witnessed(&gpu(), 1), with_peers(&cpu(), "other").campaign()] {
        for figure in all(&campaign) {
            let svg = &figure.svg;
            let plain = svg.find("\"#").map(|at| &svg[at..at + 9]);
            assert_eq!(plain, None, "{}", figure.name);
        }
    }
}
