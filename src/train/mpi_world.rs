//! The processes that `mpirun` started, connected by MPI.

use anyhow::{Context, Result};
use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

/// Variables that launchers set: Open MPI's, and those of Slurm's `srun` with PMIx or PMI.
const LAUNCHER_VARIABLES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"];

/// All processes of a run. Dropping it waits for the others to drop theirs; during a panic, it ends
/// them.
pub struct MpiWorld {
    world: SimpleCommunicator,
    sharing_cores: usize,
    /// Finalizes MPI when dropped.
    _universe: Universe,
}

impl MpiWorld {
    /// Connects to the other processes; `None` if no launcher started this one.
    pub fn connect() -> Result<Option<Self>> {
        if LAUNCHER_VARIABLES
            .iter()
            .all(|name| std::env::var_os(name).is_none())
        {
            return Ok(None);
        }
        let (universe, _) = mpi::initialize_with_threading(Threading::Funneled)
            .context("cannot initialize MPI twice")?;
        let world = universe.world();
        Ok(Some(Self {
            sharing_cores: sharing_cores(&world),
            world,
            _universe: universe,
        }))
    }

    pub fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    pub fn count(&self) -> usize {
        self.world.size() as usize
    }

    /// The processes whose cores are the same as this one's, this one included.
    pub fn sharing_cores(&self) -> usize {
        self.sharing_cores
    }

    /// Returns the values of all ranks, end to end in their order.
    pub fn all_gather(&self, values: &[u64]) -> Vec<u64> {
        let mut gathered = vec![0; values.len() * self.count()];
        self.world.all_gather_into(values, &mut gathered[..]);
        gathered
    }

    /// Replaces `values` by their sum over all ranks, in the order of the ranks. MPI_Allreduce may add
    /// in another order in each run. Here MPI only moves numbers: each rank receives one part of the
    /// values of all ranks, adds them up, and sends the sums to all. Each rank sends and receives
    /// `2 * (count - 1) / count` of the values, as in a ring.
    pub fn sum(&self, values: &mut Vec<f32>) {
        let count = self.count();
        let len = values.len();
        let part = len.div_ceil(count);
        values.resize(part * count, 0.0);
        let mut parts = vec![0f32; part * count];
        self.world.all_to_all_into(&values[..], &mut parts[..]);
        let (sums, others) = parts.split_at_mut(part);
        for other in others.chunks_exact(part.max(1)) {
            let sums = sums.iter_mut().zip(other);
            sums.for_each(|(sum, value)| *sum += value);
        }
        self.world.all_gather_into(&*sums, &mut values[..]);
        values.truncate(len);
    }

    /// Ends all processes of the run.
    pub fn abort(&self) -> ! {
        self.world.abort(1)
    }
}

impl Drop for MpiWorld {
    fn drop(&mut self) {
        // The other ranks may wait for a message of this one, rather than for its end.
        if std::thread::panicking() {
            self.abort();
        }
    }
}

/// Returns the number of processes of this machine that may run on exactly the cores of this one. A
/// launcher may bind each process to cores of its own.
fn sharing_cores(world: &SimpleCommunicator) -> usize {
    let local = world.split_shared(world.rank());
    let own = core_set();
    let mut all = vec![0u8; own.len() * local.size() as usize];
    local.all_gather_into(&own[..], &mut all[..]);
    all.chunks_exact(own.len())
        .filter(|set| *set == own)
        .count()
}

/// The set of cores that this process may run on, as the operating system writes it.
#[cfg(target_os = "linux")]
fn core_set() -> [u8; size_of::<libc::cpu_set_t>()] {
    let mut set = [0; size_of::<libc::cpu_set_t>()];
    // SAFETY: `set` has the size given, and any bytes are valid in it. On an error it stays zero, as
    // on the other ranks.
    unsafe { libc::sched_getaffinity(0, set.len(), set.as_mut_ptr().cast()) };
    set
}

/// Other systems do not bind processes to cores.
#[cfg(not(target_os = "linux"))]
fn core_set() -> [u8; 1] {
    [0]
}
