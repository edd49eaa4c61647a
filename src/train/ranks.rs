//! The processes of a data-parallel run, which `mpirun` starts. Without it, or in a build without
//! MPI, a process is the only one.
//!
//! Every process executes the same steps on its part of each batch. All functions that exchange
//! values are collective: each rank calls them in the same order. Everything that decides the course
//! of a run is exchanged, so that the ranks stay in step.

use std::cell::Cell;
use std::fmt;

use anyhow::Result;

#[cfg(feature = "mpi")]
use super::mpi_world::MpiWorld;

/// The processes of a run, seen from one of them.
#[derive(Default)]
pub struct Ranks {
    #[cfg(feature = "mpi")]
    world: Option<MpiWorld>,
    /// All ranks know of the latest failure, and nothing was exchanged since.
    failure_is_agreed: Cell<bool>,
}

/// The error of the ranks whose failure another rank reports.
#[derive(Debug)]
pub struct FailedElsewhere;

impl std::error::Error for FailedElsewhere {}

impl fmt::Display for FailedElsewhere {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "another process of the run failed")
    }
}

impl Ranks {
    /// Connects to the other processes, if `mpirun` started this one.
    #[cfg(feature = "mpi")]
    pub fn connect() -> Result<Self> {
        Ok(Self {
            world: MpiWorld::connect()?,
            ..Default::default()
        })
    }

    #[cfg(not(feature = "mpi"))]
    pub fn connect() -> Result<Self> {
        Ok(Self::default())
    }

    /// The number of this process, from 0 on.
    pub fn rank(&self) -> usize {
        #[cfg(feature = "mpi")]
        if let Some(world) = &self.world {
            return world.rank();
        }
        0
    }

    /// The number of processes.
    pub fn count(&self) -> usize {
        #[cfg(feature = "mpi")]
        if let Some(world) = &self.world {
            return world.count();
        }
        1
    }

    /// Returns whether this is rank 0, which alone prints and writes.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Returns the processes that share this one's cores, this one included.
    pub fn sharing_cores(&self) -> usize {
        #[cfg(feature = "mpi")]
        if let Some(world) = &self.world {
            return world.sharing_cores();
        }
        1
    }

    /// Replaces `values` by their sum over all ranks, added in the order of the ranks: the same bits
    /// on each rank and in each run.
    pub fn sum(&self, values: &mut Vec<f32>) {
        self.failure_is_agreed.set(false);
        #[cfg(feature = "mpi")]
        if let Some(world) = &self.world {
            world.sum(values);
        }
        let _ = values;
    }

    /// Returns the values of all ranks, in their order.
    fn all_gather<const N: usize>(&self, values: [u64; N]) -> Vec<[u64; N]> {
        self.failure_is_agreed.set(false);
        #[cfg(feature = "mpi")]
        if let Some(world) = &self.world {
            let gathered = world.all_gather(&values);
            let (arrays, _) = gathered.as_chunks();
            return arrays.to_vec();
        }
        vec![values]
    }

    /// Returns the maximum of each value over all ranks.
    pub fn max<const N: usize>(&self, values: [u64; N]) -> [u64; N] {
        let all = self.all_gather(values);
        std::array::from_fn(|i| all.iter().map(|values| values[i]).max().unwrap_or(0))
    }

    /// Returns whether all ranks have the same value.
    pub fn is_same(&self, value: u64) -> bool {
        self.all_gather([value])
            .iter()
            .all(|other| *other == [value])
    }

    /// Returns the values of rank 0.
    pub fn of_first<const N: usize>(&self, values: [u64; N]) -> [u64; N] {
        self.all_gather(values)[0]
    }

    /// Returns a result if all ranks have one. Otherwise the lowest rank that failed keeps its error,
    /// to report it, and all others return [`FailedElsewhere`].
    pub fn agree<T, E: From<FailedElsewhere>>(&self, result: Result<T, E>) -> Result<T, E> {
        Ok(self.agree_on(result, |_| 0)?.0)
    }

    /// Like [`Self::agree`]. Also returns the sum of the losses of all ranks, in their order.
    pub fn agree_on_loss<T>(&self, result: Result<(f64, T)>) -> Result<(f64, T)> {
        let ((_, value), losses) = self.agree_on(result, |(loss, _)| loss.to_bits())?;
        Ok((losses.into_iter().map(f64::from_bits).sum(), value))
    }

    /// Like [`Self::agree`]. Also returns the `number` of the result of each rank.
    fn agree_on<T, E: From<FailedElsewhere>>(
        &self,
        result: Result<T, E>,
        number: impl FnOnce(&T) -> u64,
    ) -> Result<(T, Vec<u64>), E> {
        let value = match &result {
            Ok(value) => [1, number(value)],
            Err(_) => [0, 0],
        };
        let all = self.all_gather(value);
        let Some(failed) = all.iter().position(|[is_ok, _]| *is_ok == 0) else {
            return Ok((result?, all.into_iter().map(|[_, number]| number).collect()));
        };
        self.failure_is_agreed.set(true);
        match result {
            Err(error) if failed == self.rank() => Err(error),
            _ => Err(FailedElsewhere.into()),
        }
    }

    /// Like [`Self::agree`] for a result that all ranks have alike, without an exchange.
    pub fn agree_on_same<T>(&self, result: Result<T>) -> Result<T> {
        self.failure_is_agreed.set(result.is_err());
        match result {
            Err(_) if !self.is_first() => Err(FailedElsewhere.into()),
            result => result,
        }
    }

    /// Runs `action` on rank 0 alone. Errors on all ranks if it fails.
    pub fn on_first(&self, action: impl FnOnce() -> Result<()>) -> Result<()> {
        self.agree(match self.is_first() {
            true => action(),
            false => Ok(()),
        })
    }

    /// Ends all processes if the others do not know of this one's failure and would wait for it.
    pub fn abort_unless_agreed(&self) {
        #[cfg(feature = "mpi")]
        if let Some(world) = &self.world
            && !self.failure_is_agreed.get()
        {
            world.abort();
        }
    }
}
