//! Points of a campaign by the machine that measured them.

use std::collections::HashSet;

use super::{Campaign, Measured, Node};

impl Campaign {
    /// Every point of every machine with the machine's name, which is empty where the
    /// campaign is of one, and the campaign that has its ceilings; points that no machine
    /// measured come last.
    pub fn points_by_node(&self) -> Vec<(&str, &Campaign, &Measured)> {
        let mut all: Vec<(&str, &Campaign, &Measured)> = Vec::new();
        for Node { name, campaign, .. } in &self.nodes {
            all.extend(campaign.points.iter().map(|p| (name.as_str(), campaign, p)));
        }
        match self.nodes.is_empty() {
            true => all.extend(self.points.iter().map(|point| ("", self, point))),
            false => all.extend(self.unmeasured().map(|point| ("", self, point))),
        }
        all
    }

    /// Points of a merged campaign that no machine has a row of.
    pub fn unmeasured(&self) -> impl Iterator<Item = &Measured> {
        let known: HashSet<&str> = self
            .nodes
            .iter()
            .flat_map(|node| &node.campaign.points)
            .map(|point| point.point_id.as_str())
            .collect();
        let is_merged = !self.nodes.is_empty();
        self.points
            .iter()
            .filter(move |point| is_merged && !known.contains(point.point_id.as_str()))
    }
}
