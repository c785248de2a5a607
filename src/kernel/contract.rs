//! The contract of a CUDA kernel with the rest of the program: a source, and a host half
//! that is configured once for a problem and says how it is compiled and launched.

use std::fmt;
use std::sync::Arc;

use super::configuration::{Configuration, SearchSpace};
use super::plan::{Plan, TensorCopy};
use super::refusal::{Refusal, refuse_unless};
use super::sources::HEADERS;
use crate::op::{OfProblem, Op, Problem};
use crate::toolchain::nvrtc::Source;
use crate::toolchain::{Arch, Defines, Target};

/// The macro by which a kernel waits for the launch before it, so that the two may overlap:
/// `overlap_previous` in `kernels/ptx.cuh`. Kernels whose points may be launched so by
/// themselves have it wherever the architecture knows it.
pub(super) const OVERLAP: &str = "OVERLAP";

/// The macro that lets such a kernel fetch weights before it waits.
const WEIGHTS_AHEAD: &str = "WEIGHTS_AHEAD";

/// The host half of a kernel, configured for a problem: all that is decided about it,
/// once.
pub(super) trait HostHalf: Sized + Send + Sync + 'static {
    /// What the kernel computes.
    type Operation: OfProblem;
    /// Base name of both files, and the name in records.
    const NAME: &'static str;
    /// Text of the CUDA source.
    const SOURCE: &'static str;
    /// See [`Kernel::memory_bound`].
    const MEMORY_BOUND: bool;
    /// Its search space beyond the default, see [`Kernel::configurations`].
    const CONFIGURATIONS: &'static [Configuration];

    /// Decides everything about a problem on an architecture, with parameters as a
    /// configuration of the search space has them. Kernels are compiled on machines without a
    /// GPU, so nothing here depends on the size of one.
    ///
    /// # Errors
    /// Why the kernel does not run the problem so, and what it would run.
    fn configure(
        problem: &Self::Operation,
        arch: Arch,
        choice: &Configuration,
    ) -> Result<Self, Refusal>;

    /// What the source is compiled with.
    fn defines(&self) -> Defines;

    /// How the problem is launched on a GPU of the architecture.
    fn plan(&self, target: &Target) -> Plan;

    /// Whether the kernel is expected to be no slower than those after it in `KERNELS` that
    /// run the problem.
    fn is_fast(&self) -> bool {
        true
    }
}

/// A kernel that only copies between the memory of the host and that of the device, which a
/// GPU's copy engines do: there is nothing to compile and nothing to configure.
pub(super) trait CopyHalf: 'static {
    /// What the copies do.
    type Operation: OfProblem;
    /// The name in records.
    const NAME: &'static str;

    /// The copies of a problem.
    fn copies(problem: &Self::Operation) -> Vec<TensorCopy>;
}

/// A kernel that runs other kernels one after the other, each for a stage of a problem.
pub(super) trait Composition: Sized + Send + Sync + 'static {
    /// What it computes.
    type Operation: OfProblem;
    /// The name in records.
    const NAME: &'static str;

    /// Configures the kernels of all stages, each as `choose` says.
    ///
    /// # Errors
    /// Why a kernel does not run a stage, and what it would run.
    fn configure(
        problem: &Self::Operation,
        arch: Arch,
        choose: &Choose<'_>,
    ) -> Result<Self, Refusal>;

    /// The kernels, one for each kind of stage.
    fn parts(&self) -> &[Configured];

    /// How the problem is launched on a GPU of the architecture: [`Plan::parts`] are those of
    /// [`Composition::parts`], in order.
    fn plan(&self, target: &Target) -> Plan;
}

/// The configuration in which a kernel is to run a problem.
pub type Choose<'a> = dyn Fn(&'static Kernel, &Problem) -> &'static Configuration + 'a;

/// A CUDA kernel: a source file and its host half.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Base name of both files, and the name in records.
    pub name: &'static str,
    /// What it computes.
    pub op: Op,
    /// Text of the CUDA source; `None` for what the copy engines do, and for what other
    /// kernels are composed to.
    pub source: Option<&'static str>,
    /// Whether memory bounds what it does, so that the time of its bytes is the time to
    /// expect: a product of few rows is bound by memory, one of many is not.
    pub memory_bound: bool,
    /// Its search space beyond the default.
    variants: &'static [Configuration],
    configure: Configure,
}

type Configure =
    fn(&'static Kernel, &Problem, Arch, &Choose<'_>) -> Result<Configured, Refusal>;

impl Kernel {
    /// The kernel of a host half.
    pub(super) const fn of<H: HostHalf>() -> Self {
        Kernel {
            name: H::NAME,
            op: H::Operation::OP,
            source: Some(H::SOURCE),
            memory_bound: H::MEMORY_BOUND,
            variants: H::CONFIGURATIONS,
            configure: configure::<H>,
        }
    }

    /// What copies without a source.
    pub(super) const fn of_copies<H: CopyHalf>() -> Self {
        Kernel {
            name: H::NAME,
            op: H::Operation::OP,
            source: None,
            memory_bound: false,
            variants: &[],
            configure: configure_copies::<H>,
        }
    }

    /// The kernel that is composed of others.
    pub(super) const fn of_stages<H: Composition>() -> Self {
        Kernel {
            name: H::NAME,
            op: H::Operation::OP,
            source: None,
            memory_bound: false,
            variants: &[],
            configure: configure_stages::<H>,
        }
    }

    /// The source with its file name and what it includes, if there is one.
    pub fn file(&self) -> Option<Source<'static>> {
        let text = self.source?;
        Some(Source { name: self.name, text, headers: HEADERS })
    }

    /// Its search space.
    pub fn search_space(&self) -> SearchSpace {
        let mut texts: Vec<&'static str> = self.source.into_iter().collect();
        let mut next = 0;
        while let Some(text) = texts.get(next) {
            let included = HEADERS
                .iter()
                .filter(|(name, _)| text.contains(&format!("#include \"{name}\"")));
            let new: Vec<&str> = included
                .map(|(_, text)| *text)
                .filter(|text| !texts.contains(text))
                .collect();
            texts.extend(new);
            next += 1;
        }
        SearchSpace::new(self.name, self.variants, texts)
    }

    /// Its configurations, the default first.
    pub fn configurations(&self) -> impl Iterator<Item = &'static Configuration> + use<> {
        [Configuration::DEFAULT].into_iter().chain(self.variants)
    }

    /// Configures the kernel for a problem on an architecture, in its default configuration.
    ///
    /// # Errors
    /// A problem of another operation; why the kernel does not run the problem, and what
    /// it would run.
    pub fn configure(
        &'static self,
        problem: &Problem,
        arch: Arch,
    ) -> Result<Configured, Refusal> {
        self.configure_with(problem, arch, &|_, _| Configuration::DEFAULT)
    }

    /// Configures the kernel for a problem on an architecture, in a configuration of its
    /// search space.
    ///
    /// # Errors
    /// As [`Kernel::configure`], and a configuration that does not suit the problem.
    pub fn configure_as(
        &'static self,
        problem: &Problem,
        arch: Arch,
        choice: &'static Configuration,
    ) -> Result<Configured, Refusal> {
        let choose = |kernel: &'static Kernel, _: &Problem| {
            if kernel.name == self.name { choice } else { Configuration::DEFAULT }
        };
        self.configure_with(problem, arch, &choose)
    }

    /// Configures the kernel, or those that it is composed of, as `choose` says.
    ///
    /// # Errors
    /// As [`Kernel::configure_as`].
    pub fn configure_with(
        &'static self,
        problem: &Problem,
        arch: Arch,
        choose: &Choose<'_>,
    ) -> Result<Configured, Refusal> {
        (self.configure)(self, problem, arch, choose)
    }
}

fn configure<H: HostHalf>(
    kernel: &'static Kernel,
    problem: &Problem,
    arch: Arch,
    choose: &Choose<'_>,
) -> Result<Configured, Refusal> {
    let configuration = choose(kernel, problem);
    let overlaps = configuration.overlaps_launches();
    refuse_unless(!overlaps || arch.can_overlap_launches(), || {
        format!("architectures from sm_90 on, on which launches can overlap, not {arch}")
    })?;
    let half = H::configure(operation(kernel, problem)?, arch, configuration)?;
    let (mut defines, is_fast) = (half.defines(), half.is_fast());
    if configuration.fetches_ahead() {
        defines = defines.with(WEIGHTS_AHEAD, 1);
    }
    let plan = Arc::new(move |target: &Target| match half.plan(target) {
        plan if overlaps => plan.overlapping(),
        plan => plan,
    });
    let parts = Vec::new();
    let configured =
        Configured { kernel, configuration, arch, defines, is_fast, plan, parts };
    Ok(if overlaps { configured.overlapping() } else { configured })
}

fn configure_stages<H: Composition>(
    kernel: &'static Kernel,
    problem: &Problem,
    arch: Arch,
    choose: &Choose<'_>,
) -> Result<Configured, Refusal> {
    let composed = Arc::new(H::configure(operation(kernel, problem)?, arch, choose)?);
    let parts = composed.parts().to_vec();
    let plan = Arc::new(move |target: &Target| composed.plan(target));
    Ok(Configured { parts, ..Configured::without_source(kernel, arch, plan) })
}

fn configure_copies<H: CopyHalf>(
    kernel: &'static Kernel,
    problem: &Problem,
    arch: Arch,
    _: &Choose<'_>,
) -> Result<Configured, Refusal> {
    let copies = H::copies(operation(kernel, problem)?);
    let plan = Arc::new(move |_: &Target| Plan::of_copies(copies.clone()));
    Ok(Configured::without_source(kernel, arch, plan))
}

/// The struct of the kernel's operation.
fn operation<'a, O: OfProblem>(
    kernel: &Kernel,
    problem: &'a Problem,
) -> Result<&'a O, Refusal> {
    O::of(problem).ok_or_else(|| {
        Refusal(format!(
            "the CUDA kernel `{}` computes {}, not {}; use another kernel",
            kernel.name,
            kernel.op,
            problem.op()
        ))
    })
}

type MakePlan = dyn Fn(&Target) -> Plan + Send + Sync;

/// A kernel configured for a problem on an architecture.
#[derive(Clone)]
pub struct Configured {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// In which of its configurations.
    pub configuration: &'static Configuration,
    /// The architecture.
    pub arch: Arch,
    /// What the source is compiled with. Depends on the architecture but not on the size
    /// of the GPU.
    pub defines: Defines,
    /// Whether it is expected to be no slower than kernels after it.
    pub(super) is_fast: bool,
    plan: Arc<MakePlan>,
    /// The kernels that it is composed of; empty for a kernel with a source, and for copies.
    parts: Vec<Configured>,
}

impl Configured {
    /// What has nothing of its own to compile.
    fn without_source(kernel: &'static Kernel, arch: Arch, plan: Arc<MakePlan>) -> Self {
        Configured {
            kernel,
            configuration: Configuration::DEFAULT,
            arch,
            defines: Defines::new(),
            is_fast: true,
            plan,
            parts: Vec::new(),
        }
    }

    /// The name of its configuration; of a kernel that is composed of others, those of its
    /// parts that are not in their default, `gemm_skinny.plain+attention_decode.split4`.
    pub fn configuration_name(&self) -> String {
        let mut names: Vec<String> = Vec::new();
        for part in self.parts.iter().filter(|part| !part.configuration.is_default()) {
            let name = format!("{}.{}", part.kernel.name, part.configuration.name);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        match names.is_empty() {
            true => self.configuration.name.to_owned(),
            false => names.join("+"),
        }
    }

    /// What is compiled for it: itself, or the kernels that it is composed of. The launches
    /// of a plan name theirs by its place here.
    pub fn images(&self) -> &[Configured] {
        if self.parts.is_empty() { std::slice::from_ref(self) } else { &self.parts }
    }

    /// The same, compiled so that its launches may overlap the one before them.
    pub(super) fn overlapping(mut self) -> Self {
        if !self.defines.has(OVERLAP) {
            self.defines = self.defines.with(OVERLAP, 1);
        }
        self
    }

    /// How the problem is launched on a GPU of the architecture.
    ///
    /// # Panics
    /// A target of another architecture than the kernel is configured for.
    pub fn plan(&self, target: &Target) -> Plan {
        assert_eq!(
            target.arch, self.arch,
            "{} is configured for {} and planned for {}",
            self.kernel.name, self.arch, target.arch
        );
        (self.plan)(target)
    }
}

impl fmt::Debug for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configured")
            .field("kernel", &self.kernel.name)
            .field("configuration", &self.configuration.name)
            .field("arch", &self.arch)
            .field("defines", &self.defines)
            .finish_non_exhaustive()
    }
}

/// Host halves in tests, configured for problems in text.
#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// The struct of the operation that a text spells.
    pub fn operation<O: OfProblem + Copy>(text: &str) -> O {
        let problem: Problem = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
        *O::of(&problem).unwrap_or_else(|| panic!("{text} is not {}", O::OP))
    }

    /// A host half for a problem.
    pub fn configured<H>(text: &str, arch: Arch) -> Result<H, Refusal>
    where
        H: HostHalf<Operation: Copy>,
    {
        H::configure(&operation(text), arch, Configuration::DEFAULT)
    }

    /// A host half for a problem, in the configuration of a name.
    pub fn configured_as<H>(text: &str, arch: Arch, name: &str) -> Result<H, Refusal>
    where
        H: HostHalf<Operation: Copy>,
    {
        let found = H::CONFIGURATIONS.iter().find(|choice| choice.name == name);
        let choice = found.unwrap_or_else(|| panic!("{} has no {name}", H::NAME));
        H::configure(&operation(text), arch, choice)
    }

    /// The macros of a configuration, as compiler options.
    pub fn options_as<H>(text: &str, arch: Arch, name: &str) -> String
    where
        H: HostHalf<Operation: Copy>,
    {
        configured_as::<H>(text, arch, name).unwrap().defines().options().join(" ")
    }

    /// Why a configuration does not suit a problem.
    pub fn refusal_as<H>(text: &str, arch: Arch, name: &str) -> String
    where
        H: HostHalf<Operation: Copy>,
    {
        match configured_as::<H>(text, arch, name) {
            Ok(_) => panic!("{name} of {text} is not refused"),
            Err(refusal) => refusal.0,
        }
    }

    /// The plan of a problem that the kernel runs.
    pub fn plan<H>(text: &str, target: &Target) -> Plan
    where
        H: HostHalf<Operation: Copy>,
    {
        configured::<H>(text, target.arch).unwrap().plan(target)
    }

    /// The macros of a problem that the kernel runs, as compiler options.
    pub fn options<H>(text: &str, arch: Arch) -> String
    where
        H: HostHalf<Operation: Copy>,
    {
        configured::<H>(text, arch).unwrap().defines().options().join(" ")
    }

    /// Why the kernel does not run a problem.
    pub fn refusal<H>(text: &str, arch: Arch) -> String
    where
        H: HostHalf<Operation: Copy>,
    {
        match configured::<H>(text, arch) {
            Ok(_) => panic!("{text} is not refused"),
            Err(refusal) => refusal.0,
        }
    }
}
