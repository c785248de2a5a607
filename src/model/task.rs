//! Whole turns and tasks, prefill and decode together; prefill and decode on separate
//! machines; caches in other memory. All are sums over steps, see [`super::step`].

use super::llm::Llm;
use super::predict::{Footprint, Rates, StepTimes};
use super::routing::ExpertRouting;
use super::step::{Formats, Parallel, Phase, Step, StepShape};
use super::workload::Workload;

/// A model as it is served.
#[derive(Clone, Copy, Debug)]
pub struct Served<'a> {
    /// The model.
    pub model: &'a Llm,
    /// Formats of its tensors.
    pub formats: Formats,
    /// How it is spread over GPUs.
    pub parallel: Parallel,
    /// How tokens choose experts.
    pub routing: ExpertRouting,
    /// Share of a prompt that the prefix cache holds; `None` for what workloads say.
    pub cache_hit: Option<f64>,
}

impl Served<'_> {
    fn step(
        &self,
        phase: Phase,
        batch: u64,
        context: u64,
        new_tokens: u64,
    ) -> Result<Step, String> {
        let Served { formats, parallel, routing, .. } = *self;
        let shape =
            StepShape { phase, batch, context, new_tokens, formats, parallel, routing };
        Step::of(self.model, &shape)
    }

    fn seconds(&self, step: &Step, rates: &Rates) -> Result<f64, String> {
        StepTimes::of(step, rates).map(|times| times.time_s()).ok_or_else(|| {
            format!(
                "{} states no peak in {}, or no links",
                rates.machine().name,
                self.formats.activations
            )
        })
    }

    /// Seconds of the prefill of a prompt of `context` tokens, of which the last `computed`
    /// are not in the cache. Each group of GPUs has one request.
    ///
    /// # Errors
    /// As [`Step::of`], or the machine states too little.
    pub fn prefill_s(
        &self,
        rates: &Rates,
        context: u64,
        computed: u64,
    ) -> Result<f64, String> {
        let step = self.step(Phase::Prefill, self.parallel.data, context, computed)?;
        self.seconds(&step, rates)
    }

    /// Seconds of a decode step of `batch` requests at `context` tokens.
    ///
    /// # Errors
    /// As [`Served::prefill_s`].
    pub fn decode_s(&self, rates: &Rates, batch: u64, context: u64) -> Result<f64, String> {
        self.seconds(&self.step(Phase::Decode, batch, context, 1)?, rates)
    }

    /// Seconds of `tokens` decode steps, the first at `context` cached tokens. The time of a
    /// step is piecewise linear in the context, so a few of many steps are enough.
    ///
    /// # Errors
    /// As [`Served::prefill_s`].
    pub fn answer_s(
        &self,
        rates: &Rates,
        batch: u64,
        context: u64,
        tokens: u64,
    ) -> Result<f64, String> {
        const MOST_STEPS: u64 = 64;
        let segments = tokens.min(MOST_STEPS);
        let mut seconds = 0.0;
        for segment in 0..segments {
            let (first, end) =
                (tokens * segment / segments, tokens * (segment + 1) / segments);
            // The mean of a linear function is its value in the middle.
            let middle = context + (first + end - 1) / 2;
            seconds += (end - first) as f64 * self.decode_s(rates, batch, middle)?;
        }
        Ok(seconds)
    }

    /// The largest number of requests of `context` tokens that fits, on all GPUs together.
    ///
    /// # Errors
    /// As [`Step::of`], or the machine states no capacity.
    pub fn most_requests(&self, rates: &Rates, context: u64) -> Result<u64, String> {
        let step = self.step(Phase::Decode, self.parallel.data, context, 1)?;
        let memory_bytes = rates
            .machine()
            .memory_bytes
            .ok_or_else(|| format!("{} states no memory_bytes", rates.machine().name))?;
        let most = Footprint::of(&step).most_requests(memory_bytes);
        Ok(most as u64 * self.parallel.data)
    }

    /// Bytes that a request of `context` tokens has cached, on one GPU.
    ///
    /// # Errors
    /// As [`Step::of`].
    pub fn cache_bytes(&self, context: u64) -> Result<f64, String> {
        let step = self.step(Phase::Decode, self.parallel.data, context, 1)?;
        Ok(step.request_cache_bytes as f64)
    }
}

/// A turn, or all turns of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Turn {
    /// Prompt tokens that are computed.
    pub computed_tokens: u64,
    /// Prompt tokens that are in the cache already.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Seconds of prefill.
    pub prefill_s: f64,
    /// Seconds of decode.
    pub decode_s: f64,
}

impl Turn {
    /// Turn number `turn` of a workload, from 0, in a batch of `batch` requests that decode
    /// together.
    ///
    /// # Errors
    /// As [`Served::prefill_s`].
    pub fn of(
        served: &Served,
        rates: &Rates,
        workload: &Workload,
        (turn, batch): (u64, u64),
    ) -> Result<Turn, String> {
        let prompt = workload.prompt(turn);
        let computed_tokens = workload.computed(turn, served.cache_hit);
        let cached_tokens = prompt - computed_tokens;
        let output_tokens = workload.output_tokens;
        Ok(Turn {
            computed_tokens,
            cached_tokens,
            output_tokens,
            prefill_s: served.prefill_s(rates, prompt, computed_tokens)?,
            decode_s: served.answer_s(rates, batch, prompt + 1, output_tokens)?,
        })
    }

    /// All turns of a workload's task.
    ///
    /// # Errors
    /// As [`Served::prefill_s`].
    pub fn of_task(
        served: &Served,
        rates: &Rates,
        workload: &Workload,
        batch: u64,
    ) -> Result<Turn, String> {
        let mut all = Turn::default();
        for turn in 0..workload.turns {
            let one = Turn::of(served, rates, workload, (turn, batch))?;
            all.computed_tokens += one.computed_tokens;
            all.cached_tokens += one.cached_tokens;
            all.output_tokens += one.output_tokens;
            all.prefill_s += one.prefill_s;
            all.decode_s += one.decode_s;
        }
        Ok(all)
    }

    /// Seconds of prefill and then decode.
    pub fn time_s(&self) -> f64 {
        self.prefill_s + self.decode_s
    }
}

/// Prefill on machines of one kind, decode on machines of another kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disaggregated {
    /// Requests that decode together.
    pub batch: u64,
    /// Bytes that each GPU ships: its part of the cache of the tokens that prefill computes.
    pub shipped_bytes: f64,
    /// Seconds to ship them over the slower side's links between GPUs.
    pub link_s: Option<f64>,
    /// Seconds to ship them over the slower side's link to its host.
    pub host_link_s: Option<f64>,
    /// Seconds of prefill of a turn.
    pub prefill_s: f64,
    /// Seconds of decode of a turn, divided by the requests of the batch.
    pub decode_s_per_request: f64,
}

impl Disaggregated {
    /// A typical turn of a workload. As many requests decode together as fit, and at most
    /// `limit`.
    ///
    /// # Errors
    /// As [`Served::prefill_s`], or not one request fits.
    pub fn of(
        served: &Served,
        (prefill, decode): (&Rates, &Rates),
        workload: &Workload,
        limit: u64,
    ) -> Result<Disaggregated, String> {
        let context = workload.context;
        let end = context + workload.output_tokens;
        let batch = served.most_requests(decode, end)?.min(limit);
        if batch == 0 {
            return Err(format!(
                "not one request of {end} tokens fits {}; spread the model over more GPUs",
                decode.machine().name
            ));
        }
        let computed = match served.cache_hit {
            Some(hit) => (((1.0 - hit) * context as f64).ceil() as u64).clamp(1, context),
            None => workload.new_tokens.min(context),
        };
        let per_token = served.cache_bytes(context)? / context as f64;
        let shipped_bytes = per_token * computed as f64;
        let slower = |a: Option<f64>, b: Option<f64>| Some(a?.min(b?));
        let (from, to) = (prefill.machine(), decode.machine());
        let link = slower(from.link_bytes_per_s, to.link_bytes_per_s);
        let host_link = slower(from.host_link_bytes_per_s, to.host_link_bytes_per_s);
        let answer_s =
            served.answer_s(decode, batch, context + 1, workload.output_tokens)?;
        Ok(Disaggregated {
            batch,
            shipped_bytes,
            link_s: link.map(|rate| shipped_bytes / rate),
            host_link_s: host_link.map(|rate| shipped_bytes / rate),
            prefill_s: served.prefill_s(prefill, context, computed)?
                / served.parallel.data as f64,
            decode_s_per_request: answer_s / batch as f64,
        })
    }

    /// Groups of GPUs that prefill for each group that decodes, so that neither waits.
    pub fn prefill_per_decode(&self) -> f64 {
        self.prefill_s / self.decode_s_per_request
    }

    /// Turns per second of each group of GPUs, over the groups of both kinds at the ratio
    /// [`Disaggregated::prefill_per_decode`].
    pub fn turns_per_s_per_group(&self) -> f64 {
        1.0 / (self.prefill_s + self.decode_s_per_request)
    }
}

/// A cache in host memory or in a remote pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offloaded {
    /// Bytes that a decode step reads of the cache, on one GPU.
    pub step_cache_bytes: f64,
    /// Seconds of the step with the cache in the GPU's memory.
    pub step_s: f64,
    /// Bytes of a request's cache, on one GPU.
    pub request_cache_bytes: f64,
    /// Seconds to compute that cache again.
    pub recompute_s: f64,
    /// Bytes per second of the link to the host, where the machine states it.
    pub host_link_bytes_per_s: Option<f64>,
}

impl Offloaded {
    /// Predicts a batch of requests at `context` tokens.
    ///
    /// # Errors
    /// As [`Served::prefill_s`].
    pub fn of(
        served: &Served,
        rates: &Rates,
        batch: u64,
        context: u64,
    ) -> Result<Self, String> {
        let step = served.step(Phase::Decode, batch, context, 1)?;
        let request_cache_bytes = step.request_cache_bytes as f64;
        Ok(Offloaded {
            step_cache_bytes: request_cache_bytes * step.requests as f64,
            step_s: served.seconds(&step, rates)?,
            request_cache_bytes,
            recompute_s: served.prefill_s(rates, context, context)?,
            host_link_bytes_per_s: rates.machine().host_link_bytes_per_s,
        })
    }

    /// Bytes per second at which a step that fetches all of the cache is as fast as one that
    /// has it in memory.
    pub fn streaming_bytes_per_s(&self) -> f64 {
        self.step_cache_bytes / self.step_s
    }

    /// How many times longer a step takes that fetches all of the cache from the host; `None`
    /// where the machine states no link to it.
    pub fn slowdown(&self) -> Option<f64> {
        Some((self.streaming_bytes_per_s() / self.host_link_bytes_per_s?).max(1.0))
    }

    /// Bytes per second at which fetching a request's cache once is as fast as computing it
    /// again.
    pub fn fetching_bytes_per_s(&self) -> f64 {
        self.request_cache_bytes / self.recompute_s
    }
}
