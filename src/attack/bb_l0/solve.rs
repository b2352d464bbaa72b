//! One step along a decision boundary that is taken to be a plane: from x, the δ with fewest values of x + δ that
//! differ from the original x⁰, subject to
//!
//! ```text
//! b·δ = c,   ‖δ‖ ≤ r,   0 ≤ x + δ ≤ 1.
//! ```
//!
//! * **Unreachable plane** (no δ fulfils all three): the δ that comes nearest, `δ_i(τ) = clip(sign(c)·b_i·τ)` with the τ
//!   that makes ‖δ‖ = r; the corner of the box where that is inside.
//! * **Greedy**: everything is undone, then the values of largest `|b_i·t_i|` go to the bound that helps, t_i away from
//!   x⁰_i, until the plane is reached; the last one goes part of the way. That is exact without the trust region, and taken
//!   where ‖δ‖ ≤ r.
//! * **Dual**: else `max_{λ, μ ≥ 0} −μr² − λc + Σ_i min(λb_i u_i + μu_i², 1 + λb_i d_i + μd_i²)`, where u = x⁰ − x
//!   undoes and `d_i = clip(−λb_i/2μ)` moves, says by the difference of the two terms which values are worth moving most. Of
//!   that order the shortest prefix is moved, by least norm, with which plane and trust region can be met; what stands
//!   after it is undone. A longer prefix can do what a shorter one can, so that is found by bisection; all values
//!   together can. The dual, concave, is solved by nested bisection of its derivatives b·δ − c and ‖δ‖² − r².
//!
//! Cost: greedy one sort; dual about 2,000 passes over the values.
//!
//! Source: Brendel et al. 2019, arXiv 1907.01003, section 3 and appendix; cases and greedy step as in Foolbox 3, which
//! solves the dual by a simplex method, repairs b·δ = c at one value, and in the unreachable case for c > 0 walks
//! away from the plane.

/// The problem; all values in [0, 1].
pub(super) struct Problem<'a> {
    /// x⁰.
    pub origin: &'a [f64],
    /// Where we are.
    pub x: &'a [f64],
    /// b.
    pub normal: &'a [f64],
    /// What b·δ should be.
    pub c: f64,
    /// r.
    pub radius: f64,
}

/// Share by which rounding may exceed the trust region.
const SLACK: f64 = 1e-9;

impl Problem<'_> {
    /// δ. Nothing moves where b is 0, and where b or c is not finite.
    pub(super) fn solve(&self) -> Vec<f64> {
        let finite = self.c.is_finite() && self.normal.iter().all(|b| b.is_finite());
        if !finite || self.normal.iter().all(|&b| b == 0.0) {
            return vec![0.0; self.x.len()];
        }
        let corner = self.corner();
        if self.along(&corner).abs() < self.c.abs() {
            return self.approach(corner);
        }
        if norm(&corner) > self.radius {
            match self.least(&vec![true; self.x.len()]) {
                Some(delta) if self.inside(&delta) => {}
                _ => return self.approach(corner),
            }
        }
        let delta = self.greedy();
        if self.inside(&delta) { delta } else { self.within() }
    }

    fn along(&self, delta: &[f64]) -> f64 {
        self.normal.iter().zip(delta).map(|(b, d)| b * d).sum()
    }

    fn inside(&self, delta: &[f64]) -> bool {
        norm(delta) <= self.radius * (1.0 + SLACK)
    }

    /// A move of value i, clipped to the box.
    fn clip(&self, i: usize, by: f64) -> f64 {
        by.max(-self.x[i]).min(1.0 - self.x[i])
    }

    fn undo(&self, i: usize) -> f64 {
        self.origin[i] - self.x[i]
    }

    /// The farthest move in the direction of the plane.
    fn corner(&self) -> Vec<f64> {
        let far = |(i, b): (usize, &f64)| match b * self.c {
            0.0 => 0.0,
            towards => self.clip(i, towards.signum()),
        };
        self.normal.iter().enumerate().map(far).collect()
    }

    /// As near to the plane as the trust region lets it.
    fn approach(&self, corner: Vec<f64>) -> Vec<f64> {
        if norm(&corner) <= self.radius {
            return corner;
        }
        let at = |scale: f64| -> Vec<f64> {
            let each = self.normal.iter().enumerate();
            each.map(|(i, b)| self.clip(i, self.c.signum() * b * scale)).collect()
        };
        let unclipped = self.radius / norm(self.normal);
        at(last_true(unclipped, 400, 60, |scale| norm(&at(scale)) <= self.radius))
    }

    /// The exact answer without the trust region.
    fn greedy(&self) -> Vec<f64> {
        let mut delta: Vec<f64> = (0..self.x.len()).map(|i| self.undo(i)).collect();
        let mut rest = self.c - self.along(&delta);
        let up = |i: usize| self.normal[i] * rest > 0.0;
        let mut moves: Vec<(usize, f64)> = (0..self.x.len())
            .map(|i| (i, if up(i) { 1.0 - self.origin[i] } else { -self.origin[i] }))
            .collect();
        let gain = |&(i, by): &(usize, f64)| self.normal[i] * by;
        moves.sort_by(|a, b| gain(b).abs().total_cmp(&gain(a).abs()));
        for step in moves {
            let ((i, by), gain) = (step, gain(&step));
            if gain == 0.0 || rest == 0.0 {
                break;
            }
            if gain.abs() >= rest.abs() {
                delta[i] += rest / self.normal[i];
                break;
            }
            delta[i] += by;
            rest -= gain;
        }
        delta
    }

    /// The δ of least norm with b·δ = c that moves the values `free` and undoes the others; `None` where those cannot
    /// reach the plane. `δ_i = clip(λ·b_i)`, and b·δ rises with λ.
    fn least(&self, free: &[bool]) -> Option<Vec<f64>> {
        let fixed = |i: usize| if free[i] { 0.0 } else { self.undo(i) };
        let mut delta: Vec<f64> = (0..self.x.len()).map(fixed).collect();
        let rest = self.c - self.along(&delta);
        let moved: Vec<usize> = (0..self.x.len()).filter(|&i| free[i]).collect();
        let reach = |scale: f64| -> f64 {
            let sign = scale * rest.signum();
            moved.iter().map(|&i| self.normal[i] * self.clip(i, self.normal[i] * sign)).sum()
        };
        let squares: f64 = moved.iter().map(|&i| self.normal[i].powi(2)).sum();
        let far = |i: &usize| match self.normal[*i] * rest {
            0.0 => 0.0,
            towards => self.normal[*i] * self.clip(*i, towards.signum()),
        };
        let farthest: f64 = moved.iter().map(far).sum();
        if farthest.abs() < rest.abs() {
            return None;
        }
        if rest != 0.0 {
            let scale =
                last_true(rest.abs() / squares, 400, 60, |scale| reach(scale).abs() <= rest.abs());
            for i in moved {
                delta[i] = self.clip(i, self.normal[i] * scale * rest.signum());
            }
        }
        Some(delta)
    }

    /// Fewest values inside the trust region, which the plane is known to cross.
    fn within(&self) -> Vec<f64> {
        let order = self.order();
        let attempt = |count: usize| {
            let mut free = vec![false; self.x.len()];
            order[..count].iter().for_each(|&i| free[i] = true);
            self.least(&free).filter(|delta| self.inside(delta))
        };
        let (mut low, mut high) = (0, order.len());
        let mut best = attempt(high).unwrap_or_else(|| vec![0.0; self.x.len()]);
        while low < high {
            let middle = low.midpoint(high);
            match attempt(middle) {
                Some(delta) => (high, best) = (middle, delta),
                None => low = middle + 1,
            }
        }
        best
    }

    /// Values, those first that at the optimum of the dual are most worth moving.
    fn order(&self) -> Vec<usize> {
        let steepest = self.normal.iter().fold(0.0f64, |most, b| most.max(b.abs()));
        // The multiplier of the plane for one of the trust region: b·δ falls with it.
        let plane = |region: f64| {
            let along = |multiplier: f64| self.along(&self.response(multiplier, region));
            let sign = if along(0.0) > self.c { 1.0 } else { -1.0 };
            let short = |size: f64| sign * (along(sign * size) - self.c) > 0.0;
            sign * last_true(1.0 / steepest, 60, 40, short)
        };
        let outside = |region: f64| norm(&self.response(plane(region), region)) > self.radius;
        let region = last_true(self.radius.powi(-2), 60, 30, outside);
        let multiplier = plane(region);
        let worth = |i: usize| {
            let (undo, by) = (self.undo(i), self.free_move(i, multiplier, region));
            let price = |d: f64| multiplier * self.normal[i] * d + region * d * d;
            price(undo) - price(by)
        };
        let worths: Vec<f64> = (0..self.x.len()).map(worth).collect();
        let mut order: Vec<usize> = (0..self.x.len()).collect();
        order.sort_by(|&a, &b| worths[b].total_cmp(&worths[a]));
        order
    }

    /// The δ that minimises the Lagrangian.
    fn response(&self, multiplier: f64, region: f64) -> Vec<f64> {
        let each = |i: usize| {
            let (undo, by) = (self.undo(i), self.free_move(i, multiplier, region));
            let price = |d: f64| multiplier * self.normal[i] * d + region * d * d;
            if price(undo) <= 1.0 + price(by) { undo } else { by }
        };
        (0..self.x.len()).map(each).collect()
    }

    fn free_move(&self, i: usize, multiplier: f64, region: f64) -> f64 {
        self.clip(i, -multiplier * self.normal[i] / (2.0 * region + 1e-300))
    }
}

fn norm(delta: &[f64]) -> f64 {
    delta.iter().map(|d| d * d).sum::<f64>().sqrt()
}

/// The largest number at which `holds`, which holds at 0 and from some number on no longer: the guess is doubled until it
/// fails, then halving. What holds at 2^400 times the guess is a limit that nothing reaches.
fn last_true(guess: f64, doublings: usize, halvings: usize, holds: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, guess);
    for _ in 0..doublings {
        if !holds(high) {
            break;
        }
        (low, high) = (high, 2.0 * high);
    }
    for _ in 0..halvings {
        let middle = 0.5 * (low + high);
        *(if holds(middle) { &mut low } else { &mut high }) = middle;
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    struct Random {
        origin: Vec<f64>,
        x: Vec<f64>,
        normal: Vec<f64>,
    }

    /// Points of the box, some values at bounds and some alike, as those of images and walks are.
    fn random(case: usize, n: usize) -> Random {
        let (uniform, normals) = (Seed(7).stream("x", 0, 0), Seed(7).stream("b", 0, 0));
        let place = |i: usize| 100 * case + i;
        let value = |i: usize| match uniform.bits(place(i)) % 4 {
            0 => 0.0,
            1 => 1.0,
            _ => f64::from(uniform.uniform(place(i) + 50)),
        };
        let origin: Vec<f64> = (0..n).map(value).collect();
        let moved = |i: usize| (uniform.bits(place(i) + 25) % 3 != 0, value(i + 12));
        let x = (0..n).map(|i| if moved(i).0 { moved(i).1 } else { origin[i] }).collect();
        Random { origin, x, normal: (0..n).map(|i| f64::from(normals.normal(place(i)))).collect() }
    }

    impl Random {
        fn problem(&self, c: f64, radius: f64) -> Problem<'_> {
            Problem { origin: &self.origin, x: &self.x, normal: &self.normal, c, radius }
        }
    }

    fn changed(problem: &Problem, delta: &[f64]) -> usize {
        let undo = (0..delta.len()).map(|i| problem.undo(i));
        delta.iter().zip(undo).filter(|(d, undo)| (*d - undo).abs() > 1e-9).count()
    }

    /// Subsets of the values by which the plane can be reached inside the trust region: the size of the smallest.
    fn brute_force(problem: &Problem) -> Option<usize> {
        let n = problem.x.len();
        let subsets = (0..1usize << n).filter(|set| {
            let free: Vec<bool> = (0..n).map(|i| set >> i & 1 == 1).collect();
            problem.least(&free).is_some_and(|delta| problem.inside(&delta))
        });
        subsets.map(|set| set.count_ones() as usize).min()
    }

    fn check_box(problem: &Problem, delta: &[f64]) {
        for (x, d) in problem.x.iter().zip(delta) {
            assert!((-1e-12..=1.0 + 1e-12).contains(&(x + d)), "{x} + {d}");
        }
        assert!(norm(delta) <= problem.radius * (1.0 + 1e-6), "{}", norm(delta));
    }

    #[test]
    fn without_a_trust_region_the_greedy_answer_is_the_best_there_is() {
        for case in 0..60 {
            let random = random(case, 4 + case % 9);
            let c = [0.6, -0.6, 0.02, -2.0, 0.0][case % 5];
            let problem = random.problem(c, 1e9);
            let delta = problem.solve();
            check_box(&problem, &delta);
            match brute_force(&problem) {
                Some(best) => {
                    assert!((problem.along(&delta) - c).abs() < 1e-6, "case {case}");
                    assert_eq!(changed(&problem, &delta), best, "case {case}");
                }
                None => assert_eq!(delta, problem.corner(), "case {case}"),
            }
        }
    }

    #[test]
    fn inside_a_trust_region_the_answer_reaches_the_plane_and_is_near_the_best() {
        let (mut excess, mut bound, mut cases) = (0, 0, 0);
        for case in 0..240 {
            let random = random(case, 4 + case % 7);
            let c = [0.3, -0.3, 0.05, -1.0][case % 4];
            let radius = [0.1, 0.3, 0.6, 1.0, 1.5][case % 5];
            let problem = random.problem(c, radius);
            let delta = problem.solve();
            check_box(&problem, &delta);
            let Some(best) = brute_force(&problem) else {
                // As near to the plane as any direction of the same length that the box allows.
                let reached = problem.along(&delta) * c.signum();
                assert!((0.0..c.abs() * (1.0 + 1e-9)).contains(&reached), "case {case}: {reached}");
                for other in 0..20 {
                    let by = Seed(8).stream("other", case as u64, other);
                    let mut far: Vec<f64> =
                        (0..delta.len()).map(|i| f64::from(by.normal(i))).collect();
                    let scale = radius / norm(&far);
                    far.iter_mut().enumerate().for_each(|(i, d)| *d = problem.clip(i, *d * scale));
                    assert!(problem.along(&far) * c.signum() <= reached + 1e-9, "case {case}");
                }
                continue;
            };
            assert!((problem.along(&delta) - c).abs() < 1e-6, "case {case}");
            let got = changed(&problem, &delta);
            assert!(got >= best, "case {case}: {got} below {best}");
            let greedy = problem.greedy();
            bound += usize::from(!problem.inside(&greedy));
            excess += got - best;
            cases += 1;
        }
        // The trust region binds in most; the order of the dual costs little.
        assert!(cases > 100 && bound > 60, "{cases} cases, {bound} bound");
        assert!(10 * excess <= bound, "{excess} values too many in {bound} cases");
    }

    #[test]
    fn towards_a_plane_out_of_reach_the_sign_is_that_of_c() {
        for case in 0..40 {
            let random = random(case, 30);
            for c in [50.0, -50.0, 1.0, -1.0] {
                let problem = random.problem(c, 0.05);
                let delta = problem.solve();
                check_box(&problem, &delta);
                if problem.along(&delta).abs() < c.abs() - 1e-9 {
                    assert!(problem.along(&delta) * c > 0.0, "case {case}, c {c}");
                    let corner = norm(&problem.corner());
                    assert!((norm(&delta) - corner.min(0.05)).abs() < 1e-9, "case {case}, c {c}");
                }
            }
        }
    }

    #[test]
    fn what_has_no_direction_does_not_move() {
        let (origin, x) = ([0.5; 3], [0.25; 3]);
        for (normal, c) in [([0.0; 3], 0.5), ([f64::NAN, 1.0, 1.0], 0.5), ([1.0; 3], f64::NAN)] {
            let problem = Problem { origin: &origin, x: &x, normal: &normal, c, radius: 1.0 };
            assert_eq!(problem.solve(), [0.0; 3]);
        }
    }
}
