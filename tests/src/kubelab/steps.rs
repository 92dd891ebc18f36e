//! Checks that follow each other in one cluster, reported in the form of Rust's test harness.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// What was checked so far.
#[derive(Default)]
pub struct Steps {
    filter: Option<String>,
    passed: u32,
    failed: u32,
    interrupted: Arc<AtomicBool>,
}

impl Steps {
    /// None yet. Ctrl-C and the like end the run at the next step, and clusters are removed.
    ///
    /// # Errors
    /// If signals cannot be received.
    pub fn new(filter: Option<String>) -> Result<Self> {
        let steps = Self {
            filter,
            ..Self::default()
        };
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&steps.interrupted))?;
        }
        Ok(steps)
    }

    /// Runs all steps of a cluster, unless others are wanted.
    pub fn scenario(&mut self, name: &str, run: impl FnOnce(&mut Self) -> Result<()>) {
        let wanted = self
            .filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()));
        if wanted && let Err(error) = run(self) {
            // The step itself has told why.
            eprintln!("{name} ends here: {error}");
        }
    }

    /// Runs one step.
    ///
    /// # Errors
    /// If it fails, for those after which nothing else makes sense.
    pub fn step<T>(&mut self, name: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let interrupted = self.interrupted.load(Ordering::Relaxed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            ensure!(!interrupted, "interrupted");
            run()
        }));
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
        match outcome {
            Ok(value) => {
                self.passed += 1;
                println!(
                    "test {name} ... ok ({:.1} s)",
                    began.elapsed().as_secs_f32()
                );
                Ok(value)
            }
            Err(error) => {
                self.failed += 1;
                println!("{name}: {error:#}");
                println!("test {name} ... FAILED");
                Err(anyhow::anyhow!("{name} failed"))
            }
        }
    }

    /// Prints the sums, as `cargo xtask test` reads them. Whether all is well.
    #[must_use]
    pub fn finish(&self) -> bool {
        let word = if self.failed == 0 { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {word}. {} passed; {} failed; 0 ignored",
            self.passed, self.failed
        );
        self.failed == 0
    }
}
