//! `--log`: one JSON object per step and line.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::progress::ProgressMeter;
use crate::train::{StepReport, nats_to_bits};

/// The time between flushes: short enough for `tail -f`, at no measurable cost.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// The log of a run.
pub struct Log {
    path: PathBuf,
    file: BufWriter<File>,
    last_flush: Instant,
}

impl Log {
    /// Opens a log. A resumed run appends to it.
    pub fn open(path: &Path, append: bool) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .append(append)
            .truncate(!append)
            .open(path);
        let file = file.with_context(|| format!("cannot write the log {}", path.display()))?;
        Ok(Self {
            path: path.to_path_buf(),
            file: BufWriter::new(file),
            last_flush: Instant::now(),
        })
    }

    /// Writes a step, with the validation loss if it was measured after the step.
    pub fn write(
        &mut self,
        report: &StepReport,
        validation_loss: Option<f64>,
        progress: &ProgressMeter,
    ) -> Result<()> {
        let mut line = json!({
            "step": report.step,
            "loss": report.loss,
            "lr": report.lr,
            "tokens": progress.tokens(),
            "seconds": progress.seconds(),
        });
        if let Some(loss) = validation_loss {
            line["validation_loss"] = Value::from(loss);
            line["validation_bits"] = Value::from(nats_to_bits(loss));
        }
        writeln!(self.file, "{line}")
            .with_context(|| format!("cannot write the log {}", self.path.display()))?;
        if self.last_flush.elapsed() > FLUSH_INTERVAL {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the buffer out.
    pub fn flush(&mut self) -> Result<()> {
        self.last_flush = Instant::now();
        self.file
            .flush()
            .with_context(|| format!("cannot write the log {}", self.path.display()))
    }
}
