//! Kernels of other libraries on the points of a campaign. A Python script times them
//! (`scripts/peers.py`, part of the program); what it is asked, whether its outputs are
//! right and what is recorded is decided here, by the code that measures own kernels.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;

mod answer;
mod request;
mod runner;
mod script;
mod table;
mod target;

use runner::Runner;
pub use script::PEERS_SCRIPT;
use script::Script;
pub use table::peers_of;
use target::Target;

use super::Observer;
use super::rows::Scheduled;
use crate::device::Device;
use crate::point::Point;
use crate::record::Recorder;
use crate::suite::Filter;

/// What to measure beside a campaign.
#[derive(Clone, Debug)]
pub struct PeersRequest {
    /// The campaign's folder.
    pub folder: PathBuf,
    /// The Python that has the libraries.
    pub python: String,
    /// Seconds after which no further round is begun.
    pub budget_s: Option<f64>,
    /// Names of the peers to measure; all where empty.
    pub only: Vec<String>,
    /// Measure beside own points only that meet this.
    pub filter: Option<Filter>,
    /// Seconds after which a job that makes no progress is ended.
    pub job_limit_s: f64,
    /// The command line, for provenance.
    pub command_line: String,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeersSummary {
    /// Rows written by this process.
    pub rows: usize,
    /// Rows of peers that were there before.
    pub there_before: usize,
    /// Rows that were not measured before time was up or somebody stopped it.
    pub rows_left: usize,
    /// Seconds from the first round on.
    pub total_s: f64,
}

/// Opens the device of the campaign.
pub type OpenDevice<'a> = dyn FnOnce() -> Result<Box<dyn Device>> + 'a;

/// Measures other libraries' kernels on the points of a campaign that have a time, and
/// records them in it. What is there already is left as it is.
///
/// On the device of the campaign, which `open` opens, the fastest own kernel of each problem
/// and the vendor's are measured again in turn with the peers, see
/// [`Load::InTurn`](crate::point::Load::InTurn): at its limit of power a GPU lowers its clock
/// with what ran before. Without it, or where it cannot be opened, as a GPU that lets in one
/// process at a time, peers alone are measured.
///
/// # Errors
/// A folder that is no campaign of this machine and program, a Python without torch, a name
/// of no peer, a disk that does not take the rows. What happens to a single point is a row.
pub fn measure_peers(
    request: &PeersRequest,
    open: Option<Box<OpenDevice<'_>>>,
    observer: &mut dyn Observer,
) -> Result<PeersSummary> {
    let target = Target::read(&request.folder)?;
    let plan =
        |takes_turns| target.planned(&request.only, request.filter.as_ref(), takes_turns);
    let mut of_problems = plan(open.is_some())?;
    let there_before = target.rows_of_peers();
    let count = |of_problems: &[Vec<Point>]| {
        of_problems.iter().flatten().filter(|point| target.is_wanted(point)).count()
    };
    if count(&of_problems) == 0 {
        let nothing = PeersSummary { rows: 0, there_before, rows_left: 0, total_s: 0.0 };
        return Ok(nothing);
    }
    let mut script = Script::start(&request.python, &target.run, target.is_simulated())?;
    target.agrees_with(script.hello(), &request.python)?;
    // The script has the device by now.
    let device = match open.map(|open| open()).transpose() {
        Ok(device) => device,
        Err(why) => {
            let name = &target.info.name;
            observer.note(&format!(
                "{name} cannot be opened beside the script of peers, so they are measured \
                 without own kernels in turn: {why:#}"
            ));
            of_problems = plan(false)?;
            None
        }
    };
    let wanted = count(&of_problems);
    let run = target.run_row(&request.command_line, script.hello(), there_before + wanted);
    target.earlier.agree(&run)?;
    let recorder = Recorder::resume(&request.folder, &run)?;
    let order = in_turn(of_problems, target.seed, target.suite.settings.rounds);
    let runner = Runner {
        target: &target,
        settings: target.suite.settings.of_round(),
        script: &mut script,
        device,
        recorder,
        began: Instant::now(),
        budget_s: request.budget_s.unwrap_or(f64::INFINITY),
        job_limit_s: request.job_limit_s,
        rows: 0,
        begun: Vec::new(),
    };
    let (rows, total_s) = runner.run(&order, observer)?;
    Ok(PeersSummary { rows, there_before, rows_left: wanted - rows, total_s })
}

/// The order: in each round all kernels of a problem follow one another, so that what changes
/// with time is the same for them. Problems and the kernels of each are shuffled anew. The
/// same plan and seed give the same order.
fn in_turn(of_problems: Vec<Vec<Point>>, seed: u64, rounds: usize) -> Vec<Scheduled> {
    let rounds = rounds.max(1) as u32;
    let mut order = Vec::new();
    for round in 0..rounds {
        let mut rng = Pcg64Mcg::seed_from_u64(seed.wrapping_add(round.into()));
        let mut of_problems = of_problems.clone();
        of_problems.shuffle(&mut rng);
        for mut points in of_problems {
            points.shuffle(&mut rng);
            let scheduled = |point| Scheduled { point, repeat: 0, round, rounds };
            order.extend(points.into_iter().map(scheduled));
        }
    }
    order
}
