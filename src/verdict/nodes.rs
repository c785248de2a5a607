//! A campaign of several machines: each is held to what one is, and all to the plan.

use std::collections::BTreeSet;

use super::{Judge, counted};
use crate::compare::{Change, Rules, ranked};
use crate::quantity::share;
use crate::suite::Shard;

impl Judge<'_> {
    /// Faults and warnings of each machine, named, and those of the whole: shards and points
    /// that are missing, machines that are slower than the others.
    pub(super) fn validity_of_nodes(&self) -> (Vec<String>, Vec<String>) {
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        for node in &self.campaign.nodes {
            let (of_node, remarks) = Judge::new(&node.campaign).validity();
            let named = |told: String| format!("node {}: {told}", node.name);
            faults.extend(of_node.into_iter().map(named));
            warnings.extend(remarks.into_iter().map(named));
        }
        let unreadable = self.campaign.unreadable.iter();
        faults.extend(unreadable.map(|value| format!("unreadable: {value}")));
        faults.extend(self.missing_shards());
        let unmeasured: Vec<String> = self
            .campaign
            .unmeasured()
            .map(|point| format!("{} ({})", point.problem, point.reason))
            .collect();
        if let Some(first) = unmeasured.first() {
            faults.push(format!(
                "{} measured by no node; the first is {first}",
                counted(unmeasured.len(), "planned point was", "planned points were")
            ));
        }
        warnings.extend(self.slow_nodes());
        (faults, warnings)
    }

    fn missing_shards(&self) -> Option<String> {
        let nodes = self.campaign.nodes.iter();
        let shards: Vec<Shard> = nodes.filter_map(|node| node.shard.parse().ok()).collect();
        let there: BTreeSet<u32> = shards.iter().map(|shard| shard.index).collect();
        let count = shards.first()?.count;
        let missing = (1..=count).filter(|index| !there.contains(index));
        let missing: Vec<String> =
            missing.map(|index| Shard { index, count }.to_string()).collect();
        (!missing.is_empty()).then(|| {
            format!(
                "no node measured {} {}; measure and merge again",
                if missing.len() == 1 { "shard" } else { "shards" },
                missing.join(", ")
            )
        })
    }

    /// How far machines differ, and which are slower than the others beyond noise.
    fn slow_nodes(&self) -> Vec<String> {
        let ranked = ranked(self.campaign, Rules::default());
        let speeds: Vec<f64> =
            ranked.iter().filter_map(|node| Some(node.speed?.value)).collect();
        let mut told = Vec::new();
        if let (Some(slowest), Some(fastest)) = (speeds.first(), speeds.last())
            && speeds.len() > 1
        {
            told.push(format!(
                "from the slowest to the fastest of {} nodes, times of the same points differ \
                 by {}",
                speeds.len(),
                share(fastest / slowest - 1.0)
            ));
        }
        let slow = ranked.iter().filter(|node| node.change == Some(Change::Slower));
        told.extend(slow.filter_map(|of| {
            let speed = of.speed?;
            Some(format!(
                "node {} takes {} longer than the node in the middle, at least {}",
                of.node.name,
                share(1.0 / speed.value - 1.0),
                share(1.0 / speed.hi - 1.0)
            ))
        }));
        told
    }
}
