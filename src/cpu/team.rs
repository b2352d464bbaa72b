//! Threads that stay together through the layers of a small batch.
//!
//! A layer of one image takes some ten microseconds. Here the threads of the pool wait awake for the next layer, so that
//! one begins a fraction of a microsecond after the one before it: the leader publishes tasks, everybody takes some, and
//! the leader goes on when all tasks that were taken are done. The leader waits neither for a thread that has taken no
//! task nor for one that has not come yet: a pool whose threads are busy, or asleep, costs the leader nothing.

use super::scratch::Shared;
use rayon::prelude::*;
use std::cell::Cell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// Looks for a task before a thread gives way, some 25 µs.
const LOOKS: usize = 1 << 9;
/// Looks before it leaves, some milliseconds. The pool may have made the leader of another team, or a task of this one that
/// leads a team itself, follow: they must get back to what others wait for.
const PATIENCE: usize = 1 << 16;
/// Bits of [`Team::tasks`] for the next task, and for their number.
const BITS: u32 = 24;
const MOST: usize = (1 << BITS) - 1;

thread_local! {
    /// The team that this thread leads.
    static LED: Cell<*const Team> = const { Cell::new(null()) };
}

/// A leader and the threads of the pool that follow it while it leads.
pub(crate) struct Team {
    /// How many tasks there are now, and above the low [`BITS`] the next of them.
    tasks: AtomicU64,
    /// `&&dyn Fn(usize)` of the leader, while there are tasks.
    job: AtomicPtr<()>,
    done: AtomicUsize,
    panicked: AtomicBool,
    /// Whether the leader is inside [`lead`].
    leading: AtomicBool,
    /// Followers that were called and have not left yet, those that have not come yet among them.
    called: AtomicUsize,
    threads: usize,
}

type Job<'a> = &'a (dyn Fn(usize) + Sync);

/// Runs `f`, whose [`for_each`] is shared by the threads of `team` until it returns: the calling one, and others of the
/// pool as soon as they come. One thread leads a team at a time.
pub(crate) fn lead<R>(team: &Arc<Team>, f: impl FnOnce() -> R) -> R {
    team.leading.store(true, Ordering::Release);
    while team.called.load(Ordering::Relaxed) + 1 < team.threads {
        team.called.fetch_add(1, Ordering::Relaxed);
        let team = team.clone();
        rayon::spawn(move || team.follow());
    }
    let before = LED.replace(Arc::as_ptr(team));
    let result = catch_unwind(AssertUnwindSafe(f));
    LED.set(before);
    team.leading.store(false, Ordering::Release);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// The number of threads that share [`for_each`] here: those of the team that this thread leads, else those of the pool.
pub(crate) fn threads() -> usize {
    led().map_or_else(rayon::current_num_threads, |team| team.threads)
}

/// The team that this thread leads.
fn led<'a>() -> Option<&'a Team> {
    // SAFETY: the pointer is set by `lead` on this thread, which borrows the team for as long.
    unsafe { LED.get().as_ref() }
}

/// `f(0)`, …, `f(tasks - 1)`, each once, by the team that this thread leads, else by the pool. Neighbouring tasks go to
/// the same thread where all take equally long.
pub(crate) fn for_each(tasks: usize, f: impl Fn(usize) + Sync) {
    match led().filter(|team| team.threads > 1 && tasks <= MOST) {
        _ if tasks < 2 || threads() == 1 => (0..tasks).for_each(f),
        Some(team) => team.run(tasks, &f),
        None => (0..tasks).into_par_iter().with_max_len(1).for_each(&f),
    }
}

/// `f(i, chunk)` for the chunks of `len` floats of y, the last one shorter where it must be, as [`for_each`].
pub(crate) fn for_each_chunk(y: &mut [f32], len: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let (end, shared) = (y.len(), Shared::new(y));
    for_each(end.div_ceil(len), |i| {
        // SAFETY: a chunk is one task's alone.
        f(i, unsafe { shared.part(i * len, len.min(end - i * len)) });
    });
}

impl Team {
    /// A team of `threads` threads, the leader among them.
    pub(crate) fn new(threads: usize) -> Arc<Self> {
        Arc::new(Self {
            tasks: AtomicU64::new(0),
            job: AtomicPtr::default(),
            done: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            leading: AtomicBool::new(false),
            called: AtomicUsize::new(0),
            threads: threads.max(1),
        })
    }

    fn run(&self, tasks: usize, f: Job) {
        // What tasks start themselves is not the team's.
        let before = LED.replace(null());
        self.done.store(0, Ordering::Relaxed);
        self.panicked.store(false, Ordering::Relaxed);
        self.job.store((&raw const f).cast_mut().cast(), Ordering::Relaxed);
        self.tasks.store(tasks as u64, Ordering::Release);
        while self.take() {}
        // `f` lives until every task that was taken is done.
        for look in 1.. {
            if self.done.load(Ordering::Acquire) == tasks {
                break;
            }
            if look % LOOKS == 0 {
                std::thread::yield_now();
            }
            spin_loop();
        }
        LED.set(before);
        if self.panicked.load(Ordering::Relaxed) {
            panic!("a task panicked");
        }
    }

    fn follow(&self) {
        let mut looks = 0;
        while looks < PATIENCE && self.leading.load(Ordering::Acquire) {
            looks += 1;
            // What the leader has not given to the team, and what is others', is the pool's.
            let gave_way = looks % LOOKS == 0 && rayon::yield_now() == Some(rayon::Yield::Executed);
            if gave_way || self.take() {
                looks = 0;
            } else if looks % LOOKS == 0 {
                std::thread::yield_now();
            }
            spin_loop();
        }
        self.called.fetch_sub(1, Ordering::Relaxed);
    }

    /// Runs a task, if there is one.
    fn take(&self) -> bool {
        let split = |word: u64| ((word >> BITS) as usize, word as usize & MOST);
        let (next, tasks) = split(self.tasks.load(Ordering::Relaxed));
        if next >= tasks {
            return false;
        }
        // Other tasks may have come since, so only what this returns counts.
        let (next, tasks) = split(self.tasks.fetch_add(1 << BITS, Ordering::AcqRel));
        if next >= tasks {
            return false;
        }
        let job = self.job.load(Ordering::Relaxed).cast::<Job>();
        // SAFETY: this task is taken and not done, so the leader is still in `run` with the job of these tasks, which was
        // stored before them.
        let job = unsafe { *job };
        // Every `threads`th task is a neighbour of the one before it.
        let (part, place) = (next % self.threads, next / self.threads);
        let first = part * (tasks / self.threads) + part.min(tasks % self.threads);
        let ended = catch_unwind(AssertUnwindSafe(|| job(first + place)));
        if ended.is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        self.done.fetch_add(1, Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whoever_takes_it() {
        for threads in [1, 2, 3, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for tasks in [0, 1, 2, 7, 64] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                let count = |task: usize| _ = counts[task].fetch_add(1, Ordering::Relaxed);
                pool.install(|| {
                    lead(&Team::new(threads), || (0..200).for_each(|_| for_each(tasks, count)))
                });
                pool.install(|| for_each(tasks, count));
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 201));
            }
        }
    }

    #[test]
    fn teams_meet_in_one_pool_and_inside_each_other() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let count = AtomicUsize::new(0);
        let team = || Team::new(3);
        let inner = || lead(&team(), || for_each(5, |_| _ = count.fetch_add(1, Ordering::Relaxed)));
        let outer = || lead(&team(), || (0..50).for_each(|_| for_each(4, |_| inner())));
        std::thread::scope(|scope| {
            (0..4).for_each(|_| _ = scope.spawn(|| pool.install(outer)));
        });
        assert_eq!(count.into_inner(), 4 * 50 * 4 * 5);
    }

    #[test]
    fn a_panic_of_a_task_reaches_the_leader() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let team = Team::new(2);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            pool.install(|| lead(&team, || for_each(8, |task| assert!(task != 5))));
        }));
        assert!(ended.is_err());
        // Pool and team are as good as before.
        pool.install(|| lead(&team, || for_each(8, |_| ())));
    }

    #[test]
    fn a_leader_does_not_wait_for_threads_that_do_not_come() {
        // All threads of the global pool are busy until the leader is done, or has waited for too long.
        let (done, waited) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let busy = Arc::new(AtomicUsize::new(0));
        let (until, over, here) = (done.clone(), waited.clone(), busy.clone());
        let pool = rayon::current_num_threads();
        rayon::spawn_broadcast(move |_| {
            here.fetch_add(1, Ordering::SeqCst);
            let start = std::time::Instant::now();
            while !until.load(Ordering::SeqCst) {
                over.fetch_or(start.elapsed().as_secs() >= 5, Ordering::SeqCst);
                if over.load(Ordering::SeqCst) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        while busy.load(Ordering::SeqCst) < pool {
            std::thread::yield_now();
        }
        let (team, count) = (Team::new(pool), AtomicUsize::new(0));
        for _ in 0..3 {
            lead(&team, || for_each(7, |_| _ = count.fetch_add(1, Ordering::Relaxed)));
        }
        done.store(true, Ordering::SeqCst);
        assert_eq!(count.into_inner(), 21);
        assert!(!waited.load(Ordering::SeqCst));
        // However often it leads, it calls each follower once.
        assert!(team.called.load(Ordering::Relaxed) < pool);
    }
}
