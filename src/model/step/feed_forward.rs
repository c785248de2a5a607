//! What feed-forward parts ask for: dense ones, routers, and experts.

use super::list::{Builder, StepPart, StepProblem, all_tokens};
use crate::model::llm::{Dense, Experts};
use crate::model::routing;
use crate::model::shape::{Parallel, WeightPart};
use crate::op::{CollectiveKind, Inputs, MoeGemm, Problem, Routing, RowOrder};
use crate::quant::Quant;

/// Projections into a feed-forward part: its gate is one more.
const fn up_projections(gated: bool) -> u64 {
    if gated { 2 } else { 1 }
}

impl Builder<'_> {
    pub(super) fn dense(&mut self, dense: &Dense, count: u64) -> Result<(), String> {
        let width = dense.intermediate / self.shape.parallel.tensor;
        let names = match dense.gated {
            true => ["gate and up", "activation", "down"],
            false => ["up", "activation", "down"],
        };
        self.feed_forward(WeightPart::Dense, names, (width, dense.gated), count)
    }

    /// Feed-forward layers of a width on this GPU, gated or not.
    pub(super) fn feed_forward(
        &mut self,
        part: WeightPart,
        [up, activation, down]: [&'static str; 3],
        (width, gated): (u64, bool),
        count: u64,
    ) -> Result<(), String> {
        if width == 0 || count == 0 {
            return Ok(());
        }
        let (tokens, hidden) = (self.tokens, self.model.hidden);
        let ups = up_projections(gated);
        let up_shape = (tokens, ups * width, hidden);
        self.linear_of(part, up, up_shape, count)?;
        self.elementwise(activation, (ups + 1) * tokens * width, count)?;
        self.linear_of(part, down, (tokens, hidden, width), count)
    }

    pub(super) fn experts(&mut self, experts: &Experts, count: u64) -> Result<(), String> {
        let Parallel { tensor, expert, .. } = self.shape.parallel;
        let hidden = self.model.hidden;
        let router = (self.tokens, experts.count, hidden);
        self.linear_of(WeightPart::Router, "router", router, count)?;
        let shared = experts.shared_intermediate.div_ceil(tensor);
        let names = ["shared gate and up", "shared activation", "shared down"];
        self.feed_forward(WeightPart::Shared, names, (shared, experts.gated), count)?;

        // Whole experts of a part, or a part of each; of the tokens of all GPUs that share
        // the experts, or of this group's.
        let (tokens, width) = if expert > 1 {
            let tokens = all_tokens(self.parts) * expert;
            (tokens.div_ceil(self.shape.parallel.gpus()), experts.intermediate)
        } else {
            (self.tokens, experts.intermediate / tensor)
        };
        let all = |n, k, inputs| MoeGemm {
            tokens,
            experts: experts.count,
            top_k: experts.top_k,
            n,
            k,
            dtype: self.shape.formats.activations,
            w_dtype: self.shape.formats.weights.of(WeightPart::Experts),
            routing: Routing::Balanced,
            routing_seed: 0,
            inputs,
            row_order: RowOrder::Scattered,
            a_dtype: Quant::plain(self.shape.formats.activations),
        };
        let ups = up_projections(experts.gated);
        let up = all(ups * width, hidden, Inputs::PerToken);
        let down = all(hidden, width, Inputs::PerExpert);
        self.routed("experts' gate and up", up, count)?;
        let rows = up.rows().div_ceil(expert);
        self.elementwise("experts' activation", (ups + 1) * rows * width, count)?;
        self.routed("experts' down", down, count)?;
        if expert > 1 {
            self.send_to_experts(experts, count);
        }
        Ok(())
    }

    /// Each token goes to the GPUs of its experts, one copy to each, and what comes back of
    /// each is a sum. GPUs that have the same tokens divide them for that, and gather them.
    pub(super) fn send_to_experts(&mut self, experts: &Experts, count: u64) {
        let Parallel { tensor, expert, .. } = self.shape.parallel;
        let (tokens, hidden) = (self.tokens.div_ceil(tensor), self.model.hidden);
        let most = experts.top_k.min(expert);
        let what = ("all-to-all", CollectiveKind::AllToAll);
        self.exchange(what, tokens * most * hidden, expert, 2 * count);
        let reached = routing::gpus_reached((experts.count, experts.top_k), expert);
        if let Some(exchange) = self.exchanges.last_mut() {
            exchange.mean_share = Some(reached / most as f64);
        }
        if tensor > 1 {
            let what = ("all-gather", CollectiveKind::AllGather);
            self.exchange(what, self.tokens * hidden, tensor, count);
        }
    }

    /// A projection of routed experts. Where these are spread, each GPU has its share of
    /// experts and of rows.
    pub(super) fn routed(
        &mut self,
        name: &'static str,
        all: MoeGemm,
        count: u64,
    ) -> Result<(), String> {
        let expert = self.shape.parallel.expert;
        let here = match expert {
            1 => all,
            _ => MoeGemm {
                tokens: all.rows().div_ceil(expert),
                experts: all.experts / expert,
                top_k: 1,
                inputs: Inputs::PerExpert,
                ..all
            },
        };
        let touched = self.shape.routing.experts_touched(&all)? / expert as f64;
        let others = here.bytes_read_bound() - here.expert_bytes() * here.experts_bound();
        let read = others as f64 + touched * here.expert_bytes() as f64;
        self.push_entry(StepProblem {
            name,
            part: StepPart::FeedForward,
            problem: Problem::MoeGemm(here),
            count,
            per_launch: 1,
            mean_bytes: Some(read),
            shares_weights: false,
        })
    }
}
