//! Ctrl-C and SIGTERM: the first asks to stop after the row in hand, the second ends the
//! program at once.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What shells add to the number of a signal to make an exit code of it.
const SIGNALLED: usize = 128;

/// A request to stop, made by a signal.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    /// The last signal that came; 0 for none.
    signal: Arc<AtomicUsize>,
    /// Whether the next signal ends the program.
    ends_at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on.
    ///
    /// # Errors
    /// A system that does not let the program listen.
    pub fn listen() -> Result<Self> {
        let interrupt = Interrupt::default();
        for signal in [SIGINT, SIGTERM] {
            let number = signal as usize;
            // Handlers are called in this order, so the first signal finds the flag down.
            let code = SIGNALLED as i32 + signal;
            let ends = || Arc::clone(&interrupt.ends_at_once);
            flag::register_conditional_shutdown(signal, code, ends())
                .and_then(|_| flag::register(signal, ends()))
                .and_then(|_| {
                    flag::register_usize(signal, Arc::clone(&interrupt.signal), number)
                })
                .with_context(|| format!("cannot listen for signal {signal}"))?;
        }
        Ok(interrupt)
    }

    /// Lets the first signal end the program too, once there is no row to finish.
    pub fn end_at_once(&self) {
        self.ends_at_once.store(true, Ordering::SeqCst);
    }

    /// The signal that asked to stop: its number.
    pub fn signal(&self) -> Option<usize> {
        Some(self.signal.load(Ordering::SeqCst)).filter(|signal| *signal > 0)
    }

    /// What people call a signal.
    pub fn name(signal: usize) -> &'static str {
        if signal == SIGINT as usize { "Ctrl-C" } else { "SIGTERM" }
    }

    /// The exit code of a program that a signal stopped, as shells have it.
    pub fn exit_code(signal: usize) -> ExitCode {
        ExitCode::from((SIGNALLED + signal) as u8)
    }
}
