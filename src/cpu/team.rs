//! Threads that stay together through the layers of a small batch.
//!
//! A layer of one image takes some ten microseconds. Here the threads of the pool wait awake for the next layer, so that
//! one begins a fraction of a microsecond after the one before it: the leader publishes tasks, everybody takes some, and
//! the leader goes on when all that were taken are done. It waits for nobody who has taken none.

use super::scratch::Shared;
use rayon::prelude::*;
use std::cell::Cell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null;
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

struct Team {
    /// How many tasks there are now, and above the low [`BITS`] the next of them.
    tasks: AtomicU64,
    /// `&&dyn Fn(usize)` of the leader, while there are tasks.
    job: AtomicPtr<()>,
    done: AtomicUsize,
    panicked: AtomicBool,
    over: AtomicBool,
    /// Followers that are there.
    following: AtomicUsize,
    threads: usize,
}

type Job<'a> = &'a (dyn Fn(usize) + Sync);

/// Runs `f`, whose [`for_each`] the other threads of the pool share in until it returns.
pub(crate) fn lead<R>(f: impl FnOnce() -> R) -> R {
    let team = Team {
        tasks: AtomicU64::new(0),
        job: AtomicPtr::default(),
        done: AtomicUsize::new(0),
        panicked: AtomicBool::new(false),
        over: AtomicBool::new(false),
        following: AtomicUsize::new(0),
        threads: rayon::current_num_threads(),
    };
    rayon::in_place_scope(|scope| {
        (1..team.threads).for_each(|_| scope.spawn(|_| team.follow()));
        let before = LED.replace(&team);
        let result = catch_unwind(AssertUnwindSafe(f));
        LED.set(before);
        team.over.store(true, Ordering::Release);
        team.part();
        result
    })
    .unwrap_or_else(|panic| resume_unwind(panic))
}

/// `f(0)`, …, `f(tasks - 1)`, each once, by the team that this thread leads, else by the pool. Neighbouring tasks go to
/// the same thread where all take equally long.
pub(crate) fn for_each(tasks: usize, f: impl Fn(usize) + Sync) {
    // SAFETY: set while the team lives, by `lead` on this thread.
    let team = unsafe { LED.get().as_ref() };
    match team.filter(|team| team.threads > 1 && (2..=MOST).contains(&tasks)) {
        Some(team) => team.run(tasks, &f),
        None if tasks < 2 || rayon::current_num_threads() == 1 => (0..tasks).for_each(f),
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
    fn run(&self, tasks: usize, f: Job) {
        // What tasks start themselves is not the team's.
        let before = LED.replace(null());
        self.done.store(0, Ordering::Relaxed);
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

    /// Waits awake for the followers, who leave in a moment: to sleep until they have left would take far longer.
    fn part(&self) {
        let mut after = 0;
        for _ in 0..PATIENCE {
            after += usize::from(self.following.load(Ordering::Acquire) == 0);
            // Some looks more, in which the pool notes that they have.
            if after == LOOKS / 4 {
                break;
            }
            spin_loop();
        }
    }

    fn follow(&self) {
        self.following.fetch_add(1, Ordering::Relaxed);
        self.follow_until_over();
        self.following.fetch_sub(1, Ordering::Release);
    }

    fn follow_until_over(&self) {
        let mut looks = 0;
        while looks < PATIENCE && !self.over.load(Ordering::Acquire) {
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
                pool.install(|| lead(|| (0..200).for_each(|_| for_each(tasks, count))));
                pool.install(|| for_each(tasks, count));
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 201));
            }
        }
    }

    #[test]
    fn teams_meet_in_one_pool_and_inside_each_other() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let count = AtomicUsize::new(0);
        let inner = || lead(|| for_each(5, |_| _ = count.fetch_add(1, Ordering::Relaxed)));
        let outer = || lead(|| (0..50).for_each(|_| for_each(4, |_| inner())));
        std::thread::scope(|scope| {
            (0..4).for_each(|_| _ = scope.spawn(|| pool.install(outer)));
        });
        assert_eq!(count.into_inner(), 4 * 50 * 4 * 5);
    }

    #[test]
    fn a_panic_of_a_task_reaches_the_leader() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let ended = catch_unwind(AssertUnwindSafe(|| {
            pool.install(|| lead(|| for_each(8, |task| assert!(task != 5))));
        }));
        assert!(ended.is_err());
        // The pool is as good as before.
        pool.install(|| lead(|| for_each(8, |_| ())));
    }
}
