//! Steps of requests that differ: those that decode at several contexts, and chunks of
//! prompts beside them. A file says which; see `examples/mix.toml`.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::shape::{Phase, StepShape};
use super::table::{self, Raw};

/// Equal requests of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// What the step does for them.
    pub phase: Phase,
    /// New tokens of each.
    pub new_tokens: u64,
    /// Tokens of each in the end, new ones included.
    pub context: u64,
    /// Whether each gets a token: not so where a chunk is not the last of its prompt.
    pub answered: bool,
    /// How many, on all GPUs together.
    pub requests: u64,
}

/// The requests of a step. Their order does not matter, and equal ones are one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix(Vec<Segment>);

/// Most requests and tokens of a segment, and most segments: sums over them are exact.
const MOST: u64 = 1 << 36;

impl Mix {
    /// The step of these requests.
    ///
    /// # Errors
    /// There are none.
    pub fn new(mut segments: Vec<Segment>) -> Result<Mix, String> {
        if segments.is_empty() {
            return Err(
                "no requests; write a [[segment]] with `requests` and `context`".to_owned()
            );
        }
        segments.sort_unstable();
        segments.dedup_by(|next, kept| {
            let is_equal = Segment { requests: kept.requests, ..*next } == *kept;
            if is_equal {
                kept.requests += next.requests;
            }
            is_equal
        });
        Ok(Mix(segments))
    }

    /// The step that a file describes.
    ///
    /// # Errors
    /// It cannot be read, does not parse, or says what cannot be; the message has the file
    /// and the line.
    pub fn load(path: &Path) -> Result<Mix> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the mix {file}"))?;
        let rows = table::parse::<SegmentRow>(&file, &text)?;
        Mix::new(rows).map_err(|message| anyhow::anyhow!("{file}: {message}"))
    }

    /// The segments, in a fixed order: those that decode first.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Requests, on all GPUs together.
    pub fn requests(&self) -> u64 {
        self.0.iter().map(|segment| segment.requests).sum()
    }

    /// Tokens of the longest request in the end.
    pub fn longest_context(&self) -> u64 {
        self.0.iter().map(|segment| segment.context).max().unwrap_or(0)
    }

    /// New tokens of all requests.
    pub fn new_tokens(&self) -> u64 {
        self.0.iter().map(|segment| segment.requests * segment.new_tokens).sum()
    }

    /// The shape of each segment, with formats, parallelism and routing of another step.
    pub(super) fn shapes(
        &self,
        like: &StepShape,
    ) -> impl Iterator<Item = (StepShape, bool)> + '_ {
        let like = *like;
        self.0.iter().map(move |segment| {
            let Segment { phase, new_tokens, context, answered, requests } = *segment;
            let shape = StepShape { phase, batch: requests, context, new_tokens, ..like };
            (shape, answered)
        })
    }
}

/// A segment as it is written in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SegmentRow {
    requests: u64,
    context: u64,
    #[serde(default = "one")]
    new_tokens: u64,
    phase: Option<String>,
    #[serde(default = "yes")]
    answered: bool,
}

const fn one() -> u64 {
    1
}

const fn yes() -> bool {
    true
}

impl Raw for SegmentRow {
    type Checked = Segment;
    const KEY: &'static str = "segment";

    fn check(self) -> Result<Segment, String> {
        let SegmentRow { requests, context, new_tokens, phase, answered } = self;
        for (key, number) in
            [("requests", requests), ("context", context), ("new_tokens", new_tokens)]
        {
            if number == 0 || number > MOST {
                return Err(format!("{key} = {number}; it must be from 1 to {MOST}"));
            }
        }
        if new_tokens > context {
            return Err(format!(
                "new_tokens = {new_tokens} are part of context = {context}; raise `context`, or \
                 lower `new_tokens`"
            ));
        }
        if requests.checked_mul(new_tokens).is_none_or(|tokens| tokens > MOST) {
            return Err(format!(
                "requests = {requests} of new_tokens = {new_tokens} are more than {MOST} tokens; \
                 lower one of them"
            ));
        }
        let phase = match phase.as_deref() {
            Some(name) => Phase::ALL
                .into_iter()
                .find(|phase| phase.name() == name)
                .ok_or_else(|| {
                    format!(
                        "phase = \"{name}\" is not one; write \"decode\" or \"prefill\""
                    )
                })?,
            None if new_tokens == 1 => Phase::Decode,
            None => Phase::Prefill,
        };
        Ok(Segment { phase, new_tokens, context, answered, requests })
    }
}
