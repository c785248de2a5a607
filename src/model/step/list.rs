//! The list of problems that a step is made of, and what is put into it.

use crate::model::llm::Llm;
use crate::model::routing::Touched;
use crate::model::shape::{Formats, StepShape, WeightPart};
use crate::op::{Access, Collective, CollectiveKind, Gemm, Problem, Reuse, Stream};
use crate::resource::{Link, Work};

/// What a problem of a step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepPart {
    /// Attention itself: what queries, keys and values do with each other.
    Attention,
    /// Linear layers around attention.
    Projection,
    /// Dense feed-forward layers and experts.
    FeedForward,
    /// What GPUs send each other.
    Exchange,
    /// Everything else.
    Rest,
}

/// Equal problems of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepProblem {
    /// What it is, in the field's words.
    pub name: &'static str,
    /// What it belongs to.
    pub part: StepPart,
    /// The problem, on one GPU.
    pub problem: Problem,
    /// How many of them.
    pub count: u64,
    /// How many of them one launch computes together; launches follow one another. 0 where
    /// the launch of another problem computes them too.
    pub per_launch: u64,
    /// Bytes that are read, or sent by an exchange, in the mean over the ways in which tokens
    /// choose experts. The problem itself is of as many as can be touched.
    pub(super) mean_bytes: Option<f64>,
    /// Whether its weights are in memory for another problem too.
    pub(super) shares_weights: bool,
}

impl StepProblem {
    /// Launches, as far as their start costs time of its own. Exchanges have the time of
    /// their links instead.
    pub const fn launches(&self) -> u64 {
        match self.part {
            StepPart::Exchange => 0,
            StepPart::Attention
            | StepPart::Projection
            | StepPart::FeedForward
            | StepPart::Rest => match self.per_launch {
                0 => 0,
                together => self.count.div_ceil(together),
            },
        }
    }

    /// Bytes of one problem to and from DRAM.
    pub fn bytes(&self, touched: Touched) -> f64 {
        self.bytes_of(&self.problem.work(), touched)
    }

    /// Bytes of one problem that are sent to other GPUs.
    pub fn sent_bytes(&self, touched: Touched) -> f64 {
        self.sent_bytes_of(&self.problem.work(), touched)
    }

    /// [`StepProblem::bytes`] of the problem's work, where that is known already.
    pub(in crate::model) fn bytes_of(&self, work: &Work, touched: Touched) -> f64 {
        let bytes = work.bytes();
        match self.mean_bytes {
            Some(read) if touched == Touched::Mean && bytes > 0 => {
                read + work.bytes_written() as f64
            }
            _ => bytes as f64,
        }
    }

    /// [`StepProblem::sent_bytes`] of the problem's work, where that is known already.
    pub(in crate::model) fn sent_bytes_of(&self, work: &Work, touched: Touched) -> f64 {
        let sent = work.sent_bytes();
        match self.mean_bytes {
            Some(mean) if touched == Touched::Mean && sent > 0 => mean,
            _ => sent as f64,
        }
    }

    /// Whether its bytes depend on which experts tokens choose.
    pub const fn is_routed(&self) -> bool {
        self.mean_bytes.is_some()
    }

    /// Bytes of the weights of one problem that lie in memory, read or not.
    pub fn resident_bytes(&self) -> u64 {
        if self.shares_weights {
            return 0;
        }
        match self.problem.routed() {
            Some(routed) => routed.resident_weight_bytes,
            None => self.problem.weight_bytes(),
        }
    }
}

/// Equal requests of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// What is asked for them; formats, parallelism and routing are those of all parts.
    pub shape: StepShape,
    /// Requests of this GPU.
    pub requests: u64,
    /// Whether each gets a token.
    pub answered: bool,
    /// Whether it is the first of its phase. A launch of attention is for all requests that
    /// are in one phase.
    pub leads: bool,
}

/// Makes the list.
pub(super) struct Builder<'a> {
    pub model: &'a Llm,
    /// The shape of the first part: formats, parallelism and routing of all.
    pub shape: &'a StepShape,
    pub parts: &'a [Part],
    /// New tokens of this GPU.
    pub tokens: u64,
    pub problems: Vec<StepProblem>,
    /// What GPUs send each other.
    pub exchanges: Vec<Exchange>,
}

/// Equal collectives of a step.
pub(super) struct Exchange {
    pub name: &'static str,
    pub collective: Collective,
    pub count: u64,
    /// Share of its bytes that is sent in the mean, where that depends on the routing.
    pub mean_share: Option<f64>,
}

impl Part {
    pub(super) fn of(shape: StepShape, answered: bool) -> Part {
        let requests = shape.batch.div_ceil(shape.parallel.data.max(1));
        Part { shape, requests, answered, leads: true }
    }
}

/// New tokens of all GPUs.
pub(super) fn all_tokens(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.shape.batch * part.shape.new_tokens).sum()
}

impl Builder<'_> {
    pub(super) fn push(
        &mut self,
        what: (&'static str, StepPart),
        problem: Problem,
        count: u64,
    ) -> Result<(), String> {
        self.push_together(what, problem, (count, 1))
    }

    /// Problems of which one launch computes so many; beside equal ones, if there are any.
    pub(super) fn push_together(
        &mut self,
        (name, part): (&'static str, StepPart),
        problem: Problem,
        (count, per_launch): (u64, u64),
    ) -> Result<(), String> {
        self.push_entry(StepProblem {
            name,
            part,
            problem,
            count,
            per_launch,
            mean_bytes: None,
            shares_weights: false,
        })
    }

    /// The last problem of a name has weights that another has in memory.
    pub(super) fn share_weights(&mut self, name: &str) {
        if let Some(entry) = self.problems.iter_mut().rfind(|entry| entry.name == name) {
            entry.shares_weights = true;
        }
    }

    pub(super) fn push_entry(&mut self, mut entry: StepProblem) -> Result<(), String> {
        if entry.count == 0 {
            return Ok(());
        }
        // Names differ most often, and problems are large.
        let is_equal = |other: &&mut StepProblem| {
            other.name == entry.name
                && other.problem == entry.problem
                && (other.part, other.per_launch) == (entry.part, entry.per_launch)
                && (other.mean_bytes, other.shares_weights)
                    == (entry.mean_bytes, entry.shares_weights)
        };
        if let Some(other) = self.problems.iter_mut().find(is_equal) {
            other.count += entry.count;
            return Ok(());
        }
        let checked = entry.problem.counted();
        entry.problem = checked.map_err(|e| format!("{}: {}", entry.name, e.message))?;
        self.problems.push(entry);
        Ok(())
    }

    /// A linear layer of a part over so many tokens, `n` features of `k`.
    pub(super) fn linear_of(
        &mut self,
        part: WeightPart,
        name: &'static str,
        (m, n, k): (u64, u64, u64),
        count: u64,
    ) -> Result<(), String> {
        let Formats { weights, activations, .. } = self.shape.formats;
        let (w_dtype, a_dtype) = (weights.of(part), activations.into());
        let gemm = Gemm { m, n, k, dtype: activations, w_dtype, a_dtype };
        self.push((name, StepPart::FeedForward), Problem::Gemm(gemm), count)
    }

    /// A linear layer around attention.
    pub(super) fn linear(
        &mut self,
        what: (&'static str, StepPart),
        sizes: (u64, u64, u64),
        count: u64,
    ) -> Result<(), String> {
        self.linear_of_heads(what, sizes, (1, count))
    }

    /// A product of every head with weights of its own, in each of so many layers: one
    /// launch a layer, as of a strided batched matrix product.
    pub(super) fn linear_of_heads(
        &mut self,
        what: (&'static str, StepPart),
        (m, n, k): (u64, u64, u64),
        (heads, layers): (u64, u64),
    ) -> Result<(), String> {
        let Formats { weights, activations, .. } = self.shape.formats;
        let w_dtype = weights.of(WeightPart::Attention);
        let a_dtype = activations.into();
        let gemm = Gemm { m, n, k, dtype: activations, w_dtype, a_dtype };
        self.push_together(what, Problem::Gemm(gemm), (heads * layers, heads))
    }

    /// Something elementwise that moves so many bytes, half of them read.
    pub(super) fn elementwise(
        &mut self,
        name: &'static str,
        elements: u64,
        count: u64,
    ) -> Result<(), String> {
        let bytes = self.shape.formats.activations.bytes_of(elements);
        let bytes = bytes.next_multiple_of(128);
        let stream =
            Stream { access: Access::Copy, bytes, passes: 1, reuse: Reuse::Shared };
        self.push((name, StepPart::Rest), Problem::Stream(stream), count)
    }

    /// A collective of GPUs that have so many elements of activations each.
    pub(super) fn exchange(
        &mut self,
        (name, kind): (&'static str, CollectiveKind),
        elements: u64,
        ranks: u64,
        count: u64,
    ) {
        let bytes = self.shape.formats.activations.bytes_of(elements);
        let collective = Collective { collective: kind, ranks, bytes, link: Link::Peer };
        self.exchanges.push(Exchange { name, collective, count, mean_share: None });
    }

    pub(super) fn push_exchanges(&mut self) -> Result<(), String> {
        for exchange in std::mem::take(&mut self.exchanges) {
            let Exchange { name, collective, count, mean_share } = exchange;
            let sent = collective.sent_bytes() as f64;
            self.push_entry(StepProblem {
                name,
                part: StepPart::Exchange,
                problem: collective.into(),
                count,
                per_launch: 1,
                mean_bytes: mean_share.map(|share| share * sent),
                shares_weights: false,
            })?;
        }
        Ok(())
    }
}
