//! What the programs share: the text around their body, and outputs with one value for
//! each thread.

use super::{Case, Program, Wanted};
use crate::TensorMap;

/// A program that is being written. Its body finds
///
/// * `%t`, the thread in its block; `%g`, the thread in the grid; `%in` and `%out`;
/// * `%p0`-`%p15`, `%h0`-`%h15`, `%r0`-`%r63`, `%q0`-`%q31` of 1, 16, 32, 64 bits;
/// * `%x0`-`%x255` of 32 bits, for vectors of registers.
pub(super) struct Draft {
    program: Program,
    version: &'static str,
    directives: String,
    declarations: String,
    body: String,
}

impl Draft {
    pub(super) fn new(family: &'static str, name: impl Into<String>) -> Self {
        Draft {
            program: Program {
                name: name.into(),
                family,
                target: "sm_80",
                ptx: String::new(),
                grid: [1; 3],
                block: [32, 1, 1],
                cluster: [1; 3],
                shared_bytes: 0,
                input: Vec::new(),
                output_bytes: 0,
                tensor_maps: Vec::new(),
                cases: Vec::new(),
                must_fault: None,
            },
            version: "7.8",
            directives: String::new(),
            declarations: String::new(),
            body: String::new(),
        }
    }

    /// Sets the oldest architecture and version of the ISA that have the instructions.
    pub(super) fn needs(mut self, target: &'static str, version: &'static str) -> Self {
        (self.program.target, self.version) = (target, version);
        self
    }

    pub(super) fn threads(mut self, threads: u32) -> Self {
        self.program.block = [threads, 1, 1];
        self
    }

    pub(super) fn blocks(mut self, blocks: u32, cluster: u32) -> Self {
        self.program.grid = [blocks, 1, 1];
        self.program.cluster = [cluster, 1, 1];
        self
    }

    /// Says that the launch must end with a fault whose words are these.
    pub(super) fn must_fault(mut self, rule: &'static str) -> Self {
        self.program.must_fault = Some(rule);
        self
    }

    /// Adds a directive of the entry, as `.maxntid 128`.
    pub(super) fn directive(mut self, text: &str) -> Self {
        self.directives += &format!("{text}\n");
        self
    }

    /// Appends to the input, at a multiple of 128 bytes; gives the offset.
    pub(super) fn input(&mut self, bytes: &[u8]) -> usize {
        let input = &mut self.program.input;
        input.resize(input.len().next_multiple_of(128), 0);
        let at = input.len();
        input.extend_from_slice(bytes);
        at
    }

    pub(super) fn input_words(&mut self, words: impl IntoIterator<Item = u32>) -> usize {
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        self.input(&bytes)
    }

    /// Adds a tensor map, whose parameter is `map0`, `map1` and so on.
    pub(super) fn map(&mut self, map: TensorMap) {
        self.program.tensor_maps.push(map);
    }

    /// Appends variables, at the head of the kernel.
    pub(super) fn declare(&mut self, text: &str) {
        self.declarations += &format!("    {text}\n");
    }

    /// Appends instructions.
    pub(super) fn code(&mut self, text: &str) {
        for line in text.lines() {
            self.body += &format!("    {}\n", line.trim());
        }
    }

    /// Threads of the whole grid.
    pub(super) fn total(&self) -> usize {
        let product = |axes: [u32; 3]| axes.iter().product::<u32>() as usize;
        product(self.program.grid) * product(self.program.block)
    }

    /// Adds a value of `bytes` bytes for every thread to the output; `%q31` becomes the
    /// address of the thread's value.
    pub(super) fn column(&mut self, bytes: usize) -> usize {
        let offset = self.program.output_bytes.next_multiple_of(8);
        self.program.output_bytes = offset + bytes * self.total();
        self.code(&format!(
            "mad.wide.u32 %q31, %g, {bytes}, %out;\nadd.s64 %q31, %q31, {offset};"
        ));
        offset
    }

    /// What a value in the output must be.
    pub(super) fn case(
        &mut self,
        label: String,
        offset: usize,
        bytes: usize,
        wanted: Wanted,
    ) {
        self.program.cases.push(Case { label, offset, bytes, wanted });
    }

    /// Stores a 32-bit register of every thread, which must be what `wanted` says.
    pub(super) fn put(&mut self, label: &str, register: &str, wanted: impl Fn(u32) -> u32) {
        let offset = self.column(4);
        self.code(&format!("st.global.b32 [%q31], {register};"));
        for thread in 0..self.total() {
            let label = format!("{label}, thread {thread}");
            let wanted = Wanted::Bits(u64::from(wanted(thread as u32)));
            self.case(label, offset + 4 * thread, 4, wanted);
        }
    }

    /// Stores a predicate as 0 or 1.
    pub(super) fn put_predicate(
        &mut self,
        label: &str,
        predicate: &str,
        wanted: impl Fn(u32) -> bool,
    ) {
        self.code(&format!("selp.u32 %r63, 1, 0, {predicate};"));
        self.put(label, "%r63", |thread| u32::from(wanted(thread)));
    }

    /// Appends a loop that ends when the phase with this parity of the mbarrier at `address`
    /// is complete. Uses `%p15`.
    pub(super) fn wait(&mut self, address: &str, parity: &str) {
        let label = format!("WAIT{}", self.body.len());
        self.code(&format!(
            "{label}:\nmbarrier.try_wait.parity.shared::cta.b64 %p15, [{address}], {parity};\n\
             @!%p15 bra {label};"
        ));
    }

    pub(super) fn finish(self) -> Program {
        let Draft { mut program, version, directives, declarations, body } = self;
        let maps: String = (0..program.tensor_maps.len())
            .map(|n| format!(",\n    .param .align 64 .b8 map{n}[128]"))
            .collect();
        program.ptx = format!(
            ".version {version}\n.target {}\n.address_size 64\n\n\
             .visible .entry k(\n    .param .u64 in,\n    .param .u64 out{maps}\n)\n{directives}{{\n    \
             .reg .pred %p<16>;\n    .reg .b16 %h<16>;\n    .reg .b32 %r<64>, %x<256>, %t, %g;\n    \
             .reg .b64 %q<32>, %in, %out;\n{declarations}    \
             ld.param.u64 %in, [in];\n    ld.param.u64 %out, [out];\n    \
             mov.u32 %t, %tid.x;\n    mov.u32 %r0, %ctaid.x;\n    mov.u32 %r1, %ntid.x;\n    \
             mad.lo.u32 %g, %r0, %r1, %t;\n{body}    ret;\n}}\n",
            program.target
        );
        if program.input.is_empty() {
            program.input.push(0);
        }
        program
    }
}

/// A value that must have these bits.
pub(super) fn bits(value: u64) -> Wanted {
    Wanted::Bits(value)
}

/// Cases of a single instruction: three inputs of 64 bits and the expected result.
pub(super) type Cases = Vec<([u64; 3], Wanted)>;

/// A program that runs `body` once for each case, one case per thread. The body has its
/// inputs in `%a`, `%b`, `%c` of 32 bits, or `%wa`, `%wb`, `%wc` of 64 bits, and leaves
/// the result in `%d`, or in `%wd` where it uses that.
pub(super) struct Scalar {
    family: &'static str,
    target: &'static str,
    version: &'static str,
}

impl Scalar {
    pub(super) const fn new(family: &'static str) -> Self {
        Scalar { family, target: "sm_80", version: "7.8" }
    }

    pub(super) const fn needs(self, target: &'static str, version: &'static str) -> Self {
        Scalar { target, version, ..self }
    }

    /// The program for `body`, named after its first instruction.
    pub(super) fn program(&self, body: &str, cases: &Cases) -> Program {
        let name = body.split([' ', ';']).next().unwrap_or_default();
        self.named(name, body, cases)
    }

    pub(super) fn named(&self, name: &str, body: &str, cases: &Cases) -> Program {
        let mut draft = Draft::new(self.family, name)
            .needs(self.target, self.version)
            .threads(cases.len() as u32);
        let wide = body.contains("%wd");
        let inputs: Vec<u8> =
            cases.iter().flat_map(|case| case.0).flat_map(u64::to_le_bytes).collect();
        draft.input(&inputs);
        draft.declare(".reg .b32 %a, %b, %c, %d;\n    .reg .b64 %wa, %wb, %wc, %wd;");
        draft.code(
            "mad.wide.u32 %q0, %t, 24, %in;
             ld.global.u64 %wa, [%q0];
             ld.global.u64 %wb, [%q0+8];
             ld.global.u64 %wc, [%q0+16];
             cvt.u32.u64 %a, %wa;
             cvt.u32.u64 %b, %wb;
             cvt.u32.u64 %c, %wc;",
        );
        draft.code(&body.replace("; ", ";\n"));
        let bytes = if wide { 8 } else { 4 };
        let offset = draft.column(bytes);
        let result =
            if wide { "st.global.b64 [%q31], %wd;" } else { "st.global.b32 [%q31], %d;" };
        draft.code(result);
        for (n, (inputs, wanted)) in cases.iter().enumerate() {
            let used = [("%a", "%wa"), ("%b", "%wb"), ("%c", "%wc")];
            let list: Vec<String> = used
                .iter()
                .zip(inputs)
                .filter(|((narrow, wide), _)| body.contains(narrow) || body.contains(wide))
                .map(|(_, input)| format!("{input:#x}"))
                .collect();
            let label = format!("{name} of {}", list.join(", "));
            draft.case(label, offset + bytes * n, bytes, *wanted);
        }
        draft.finish()
    }
}

/// A case of one operand.
pub(super) fn one(a: u64, d: u64) -> ([u64; 3], Wanted) {
    ([a, 0, 0], bits(d))
}

/// A case of two operands.
pub(super) fn two(a: u64, b: u64, d: u64) -> ([u64; 3], Wanted) {
    ([a, b, 0], bits(d))
}

/// A case of three operands.
pub(super) fn three(a: u64, b: u64, c: u64, d: u64) -> ([u64; 3], Wanted) {
    ([a, b, c], bits(d))
}
