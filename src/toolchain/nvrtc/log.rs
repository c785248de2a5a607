//! What the assembler reports about each entry under `--ptxas-options=-v`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The resources of one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Local memory of a thread, with the functions that are not inlined.
    pub stack_bytes: u32,
    /// Bytes that spills store.
    pub spill_store_bytes: u32,
    /// Bytes that spills load.
    pub spill_load_bytes: u32,
    /// Static shared memory of a block.
    pub shared_bytes: u32,
    /// Named barriers of a block.
    pub barriers: u32,
    /// Bytes of all parameters.
    pub param_bytes: u32,
    /// Threads of a block that it is compiled for; `None` where the source does
    /// not say.
    pub max_threads: Option<u32>,
    /// Blocks that it is compiled to have on an SM at once; `None` where the
    /// source does not say.
    pub min_blocks: Option<u32>,
}

/// A log, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By entry.
    pub resources: BTreeMap<String, Resources>,
    /// Warnings, and remarks on lost performance, which have a number such as
    /// C7511.
    pub warnings: Vec<String>,
}

impl Report {
    /// Reads a log. Lines that it does not know are skipped.
    pub fn parse(log: &str) -> Self {
        let mut report = Report::default();
        let mut entry = String::new();
        for line in log.lines() {
            if is_warning(line) {
                report.warnings.push(line.trim().to_owned());
                continue;
            }
            let text = match line.split_once(": ") {
                Some((head, text)) if head.starts_with("ptxas") => text.trim(),
                _ => line.trim_start_matches("ptxas").trim_start_matches([' ', '.']),
            };
            if let Some(rest) = text.strip_prefix("Compiling entry function '") {
                entry = rest.split('\'').next().unwrap_or_default().to_owned();
                report.resources.insert(entry.clone(), Resources::default());
            } else if let Some(resources) = report.resources.get_mut(&entry) {
                resources.add(text);
            }
        }
        report
    }
}

/// Whether a line warns.
fn is_warning(line: &str) -> bool {
    let numbered = |line: &str| {
        line.split("(C").skip(1).any(|rest| {
            rest.split_once(')').is_some_and(|(number, _)| {
                number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit())
            })
        })
    };
    line.contains(": warning")
        || line.starts_with("ptxas") && (line.contains("warning") || numbered(line))
}

impl Resources {
    /// Adds one line's counts, `Used 40 registers, used 1 barriers, 68 bytes
    /// smem`. Those of a function that is not inlined come after its caller's.
    fn add(&mut self, line: &str) {
        for part in line.split(", ") {
            let words: Vec<&str> = part.split_whitespace().collect();
            let number = |at: usize| words.get(at).and_then(|word| word.parse().ok());
            match (words.as_slice(), number(0), number(1)) {
                ([_, "bytes", "stack", "frame"], Some(n), _) => self.stack_bytes += n,
                ([_, "bytes", "spill", "stores"], Some(n), _) => {
                    self.spill_store_bytes += n
                }
                ([_, "bytes", "spill", "loads"], Some(n), _) => self.spill_load_bytes += n,
                ([_, "bytes", "smem"], Some(n), _) => self.shared_bytes = n,
                (["Used", _, "registers"], _, Some(n)) => self.registers = n,
                (["used", _, "barriers"], _, Some(n)) => self.barriers = n,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// NVRTC 13.0.88 on an early `stream.cu`.
    const SM_80: &str = "\
ptxas info    : 16 bytes gmem, 24 bytes cmem[4]
ptxas info    : Compiling entry function 'stream_write' for 'sm_80'
ptxas info    : Function properties for stream_write
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers, used 0 barriers, 408 bytes cmem[0]
ptxas info    : Compile time = 6.489 ms
ptxas info    : Compiling entry function 'stream_read' for 'sm_80'
ptxas info    : Function properties for stream_read
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 68 bytes smem, 408 bytes cmem[0], 8 bytes cmem[2]
ptxas info    : Compile time = 15.452 ms
";

    /// The same compiler on functions that spill, index an array by a variable
    /// and call a function.
    const SPILLS: &str = "\
ptxas warning : Value of threads per SM for entry spilly is out of range. .minnctapersm will be ignored
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'calls' for 'sm_90a'
ptxas info    : Function properties for calls
ptxas         .     400 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 400 bytes cumulative stack size, 400 bytes smem
ptxas info    : Compile time = 8.326 ms
ptxas info    : Function properties for _Z1fi
ptxas         .     8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'spilly' for 'sm_90a'
ptxas info    : Function properties for spilly
ptxas         .     6120 bytes stack frame, 9464 bytes spill stores, 28796 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 6120 bytes cumulative stack size
";

    /// The layout of other versions: no barriers, properties without a prefix.
    const OLDER: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k' for 'sm_80'
ptxas info    : Function properties for k
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, 1024 bytes smem, 360 bytes cmem[0]
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the wgmma pipeline in function 'k'
k.cu(3): warning #177-D: variable \"x\" was declared but never referenced
ptxas info    : Compile time (C) = 1 ms
";

    #[test]
    fn logs_are_read() {
        let report = Report::parse(SM_80);
        assert_eq!(report.warnings, [""; 0]);
        let write = Resources { registers: 30, ..Resources::default() };
        let read =
            Resources { registers: 40, barriers: 1, shared_bytes: 68, ..write.clone() };
        let expected = [("stream_write", write), ("stream_read", read)];
        assert_eq!(report.resources, BTreeMap::from(expected.map(|(n, r)| (n.into(), r))));
    }

    #[test]
    fn spills_and_stacks_are_read() {
        let report = Report::parse(SPILLS);
        assert_eq!(report.warnings.len(), 1);
        let calls = &report.resources["calls"];
        assert_eq!((calls.stack_bytes, calls.shared_bytes), (408, 400));
        let spilly = &report.resources["spilly"];
        assert_eq!((spilly.spill_store_bytes, spilly.spill_load_bytes), (9464, 28796));
    }

    #[test]
    fn remarks_on_performance_are_warnings() {
        let report = Report::parse(OLDER);
        assert_eq!(report.warnings.len(), 2, "{:?}", report.warnings);
        let k = &report.resources["k"];
        assert_eq!((k.registers, k.shared_bytes, k.barriers), (255, 1024, 0));
        assert_eq!((k.stack_bytes, k.spill_store_bytes, k.spill_load_bytes), (16, 12, 8));
    }

    proptest! {
        /// Reading never panics, and finds what a log says in whatever order
        /// the entries come.
        #[test]
        fn any_entries_are_read(
            entries in prop::collection::btree_map(
                "[a-z_][a-z0-9_]{0,20}",
                [0u32..256, 0..4096, 0..4096, 0..4096, 0..200_000, 0..17],
                0..6,
            ),
            noise in "\\PC{0,60}",
        ) {
            let mut log = String::new();
            for (name, [registers, stack, stores, loads, shared, barriers]) in &entries {
                log.push_str(&format!(
                    "ptxas info    : Compiling entry function '{name}' for 'sm_90a'\n\
                     ptxas info    : Function properties for {name}\n\
                     ptxas         .     {stack} bytes stack frame, {stores} bytes spill stores, \
                     {loads} bytes spill loads\n\
                     ptxas info    : Used {registers} registers, used {barriers} barriers, \
                     {shared} bytes smem, 360 bytes cmem[0]\n"
                ));
            }
            Report::parse(&format!("{noise}\n{log}"));
            let report = Report::parse(&log);
            prop_assert_eq!(report.resources.len(), entries.len());
            for (name, [registers, stack, stores, loads, shared, barriers]) in entries {
                let r = &report.resources[&name];
                prop_assert_eq!(
                    [r.registers, r.stack_bytes, r.spill_store_bytes, r.spill_load_bytes,
                     r.shared_bytes, r.barriers],
                    [registers, stack, stores, loads, shared, barriers]
                );
            }
        }
    }
}
