//! A whole step of decoding, of the kernels that run its problems one by one.

use super::contract::{Choose, Composition, Configured, Kernel};
use super::plan::{BoundStage, Plan, Scratch};
use super::refusal::Refusal;
use crate::op::{DecodeStep, Problem, Stage};
use crate::toolchain::{Arch, Target};

/// A step, its kernels configured.
pub(super) struct ComposedStep {
    p: DecodeStep,
    stages: Vec<Stage>,
    /// The different problems of the stages, each with its kernel in [`ComposedStep::parts`].
    problems: Vec<Problem>,
    parts: Vec<Configured>,
    overlaps: bool,
}

impl Composition for ComposedStep {
    type Operation = DecodeStep;
    const NAME: &'static str = "decode_step";

    fn configure(p: &DecodeStep, arch: Arch, choose: &Choose<'_>) -> Result<Self, Refusal> {
        let overlaps = arch.can_overlap_launches();
        let kinds = p.kinds();
        let mut parts = Vec::with_capacity(kinds.len());
        for kind in &kinds {
            let part = Kernel::for_problem(&kind.problem, arch)
                .and_then(|found| found.kernel.configure_with(&kind.problem, arch, choose))
                .map_err(|why| Refusal(format!("{}: {why}", kind.name)))?;
            parts.push(if overlaps { part.overlapping() } else { part });
        }
        let problems = kinds.into_iter().map(|kind| kind.problem).collect();
        Ok(ComposedStep { p: *p, stages: p.stages(), problems, parts, overlaps })
    }

    fn parts(&self) -> &[Configured] {
        &self.parts
    }

    fn plan(&self, target: &Target) -> Plan {
        let part = |configured: &Configured| {
            let mut part = configured.plan(target);
            for launch in &mut part.launches {
                launch.overlaps_previous = self.overlaps;
            }
            part
        };
        let parts: Vec<Plan> = self.parts.iter().map(part).collect();
        let temporaries = self.p.temporaries().into_iter();
        let stages = self.stages.iter().map(|stage| BoundStage {
            part: self.part_of(stage),
            operands: stage.operands.clone(),
        });
        let stages: Vec<BoundStage> = stages.collect();
        let extra_bytes = stages.iter().map(|stage| parts[stage.part].extra_bytes).sum();
        Plan {
            scratch: temporaries.map(|t| Scratch::unset(t.name, t.bytes)).collect(),
            extra_bytes,
            parts,
            stages,
            ..Plan::of_copies(Vec::new())
        }
    }
}

impl ComposedStep {
    /// Which part runs a stage.
    ///
    /// # Panics
    /// Where the operation has a stage of no kind.
    fn part_of(&self, stage: &Stage) -> usize {
        let part = self.problems.iter().position(|problem| *problem == stage.problem);
        part.unwrap_or_else(|| {
            panic!("`{}` is no kind of stage of {:?}", stage.name, self.p)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Configuration;
    use crate::kernel::contract::OVERLAP;
    use crate::kernel::contract::testing::operation;

    fn default(_: &'static Kernel, _: &Problem) -> &'static Configuration {
        Configuration::DEFAULT
    }

    fn composed(batch: u64, arch: Arch) -> ComposedStep {
        let text = format!(
            "decode_step:layers=2,batch={batch},context=512,hidden=4096,q_heads=32,kv_heads=8,\
             head_dim=128,intermediate=14336,vocab=128256,dtype=bf16"
        );
        ComposedStep::configure(&operation(&text), arch, &default)
            .unwrap_or_else(|why| panic!("{why}"))
    }

    const BATCHES: [u64; 6] = [1, 8, 17, 64, 100, 300];

    /// Overlapping launches are right only if every kernel waits before it reads anything.
    #[test]
    fn every_part_waits_for_the_launch_before_it() {
        for batch in BATCHES {
            for part in composed(batch, Arch::SM_90).parts {
                let source = part.kernel.source.expect("parts are compiled");
                let kernels = source.matches("\nKERNEL(").count();
                // In the body of each, before anything that an earlier launch may write.
                let waiting = source.matches("\n  overlap_previous();\n").count();
                assert!(kernels > 0 && waiting == kernels, "{}", part.kernel.name);
                let options = part.defines.options();
                let overlapping = options.iter().filter(|o| *o == "-DOVERLAP=1");
                assert_eq!(overlapping.count(), 1, "{}", part.defines);
            }
        }
    }

    #[test]
    fn launches_overlap_where_the_architecture_lets_them() {
        for (arch, overlaps) in
            [(Arch::SM_80, false), (Arch::SM_89, false), (Arch::SM_90, true)]
        {
            let step = composed(8, arch);
            let plan = step.plan(&Target::new(arch, arch.usual_sms()));
            assert_eq!(plan.all_launches().count(), 2 + 2 * 9 + 2);
            let same = |planned: super::super::PlannedLaunch| {
                planned.launch.overlaps_previous == overlaps
            };
            assert!(plan.all_launches().all(same), "{arch}");
            let has_macro = |part: &Configured| part.defines.has(OVERLAP);
            assert!(step.parts.iter().all(|part| has_macro(part) == overlaps), "{arch}");
        }
    }

    /// Stages of one kind share what is compiled and what is scratch.
    #[test]
    fn a_step_has_one_part_for_each_kind() {
        let step = composed(8, Arch::SM_90);
        let plan = step.plan(&Target::new(Arch::SM_90, 132));
        assert_eq!(plan.parts.len(), step.p.kinds().len());
        let used: std::collections::BTreeSet<usize> =
            plan.stages.iter().map(|stage| stage.part).collect();
        assert_eq!(used.len(), plan.parts.len());
        assert_eq!(plan.scratch.len(), step.p.temporaries().len());
    }

    #[test]
    fn what_a_part_refuses_is_told_with_its_name() {
        let text = "decode_step:layers=1,batch=2,context=64,hidden=60,q_heads=2,kv_heads=1,\
                    head_dim=64,intermediate=96,vocab=200,dtype=bf16";
        let refusal = ComposedStep::configure(&operation(text), Arch::SM_90, &default)
            .err()
            .unwrap()
            .0;
        assert!(refusal.contains(": ") && refusal.contains("60"), "{refusal}");
    }
}
