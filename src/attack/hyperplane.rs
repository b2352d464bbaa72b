//! The shortest step from a point of the box [0, 1]^d to a hyperplane, inside the box.
//!
//! `min ‖δ‖ subject to ⟨w, x + δ⟩ = b, 0 ≤ x + δ ≤ 1`, in L∞ or L2. With c = ⟨w, x⟩ − b > 0 (else w and c change
//! sign) every coordinate gives way against the sign of its w with a speed v_i, 1 for L∞ and |w_i| for L2, until the
//! box ends: after the time r_i/v_i with its room r_i, x_i for w_i > 0 and 1 − x_i for w_i < 0. What that takes off
//! by the time t, `Σ |w_i| min(v_i t, r_i)`, grows with t and is linear between the sorted times, so that the t which
//! takes off c is found in one pass. Where all the room together does not reach the plane, all of it is used.
//!
//! Source: Croce & Hein 2020, arXiv 1907.02044, section 2.2.

/// δ of least largest value, for a point `x`, a normal `w` and the `excess` ⟨w, x⟩ − b; 0 where w is 0.
///
/// Equal lengths; O(d log d).
pub(super) fn shortest_linf(x: &[f32], w: &[f32], excess: f64) -> Vec<f64> {
    shortest(x, w, excess, |_| 1.0)
}

/// δ of least sum of squares; else as [`shortest_linf`].
pub(super) fn shortest_l2(x: &[f32], w: &[f32], excess: f64) -> Vec<f64> {
    shortest(x, w, excess, |weight| weight)
}

/// `speed` of a coordinate from its |w|.
fn shortest(x: &[f32], w: &[f32], excess: f64, speed: fn(f64) -> f64) -> Vec<f64> {
    let side = if excess < 0.0 { -1.0 } else { 1.0 };
    let room = |x: f32, w: f32| {
        let x = f64::from(x);
        if side * f64::from(w) > 0.0 { x } else { 1.0 - x }
    };
    let end = |(&x, &w): (&f32, &f32)| {
        let weight = f64::from(w).abs();
        (room(x, w) / speed(weight), weight * speed(weight))
    };
    let mut ends: Vec<(f64, f64)> = x.iter().zip(w).filter(|(_, w)| **w != 0.0).map(end).collect();
    ends.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    // Summed from the back: a difference of sums would leave nothing of the smallest rates.
    let mut rates: Vec<f64> = ends.iter().map(|(_, rate)| *rate).collect();
    for i in (1..rates.len()).rev() {
        rates[i - 1] += rates[i];
    }
    let (mut left, mut time) = (excess.abs(), 0.0);
    for ((end, _), rate) in ends.into_iter().zip(rates) {
        let taken = rate * (end - time);
        if taken >= left {
            time += left / rate;
            break;
        }
        left -= taken;
        time = end;
    }
    let shift = |(&x, &w): (&f32, &f32)| match w {
        0.0 => 0.0,
        _ => {
            let weight = f64::from(w);
            -side * weight.signum() * (time * speed(weight.abs())).min(room(x, w))
        }
    };
    x.iter().zip(w).map(shift).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use crate::rng::Philox;

    type Shortest = fn(&[f32], &[f32], f64) -> Vec<f64>;

    /// Steps of size `bound` against w, cut by the box.
    fn corner(x: &[f32], w: &[f32], side: f64, bound: f64) -> Vec<f64> {
        let step = |(&x, &w): (&f32, &f32)| {
            let (x, w) = (f64::from(x), f64::from(w));
            if w == 0.0 { 0.0 } else { (x - side * bound * w.signum()).clamp(0.0, 1.0) - x }
        };
        x.iter().zip(w).map(step).collect()
    }

    /// The gradient of the Lagrangian of ‖δ‖²/2 is 0 there, but for the box.
    fn pulled(x: &[f32], w: &[f32], side: f64, dual: f64) -> Vec<f64> {
        let step = |(&x, &w): (&f32, &f32)| {
            let (x, w) = (f64::from(x), f64::from(w));
            (x - side * dual * w).clamp(0.0, 1.0) - x
        };
        x.iter().zip(w).map(step).collect()
    }

    fn left(w: &[f32], excess: f64, delta: &[f64]) -> f64 {
        excess + w.iter().zip(delta).map(|(&w, step)| f64::from(w) * step).sum::<f64>()
    }

    /// The δ that bisection of its bound or dual variable finds.
    fn bisected(
        family: fn(&[f32], &[f32], f64, f64) -> Vec<f64>,
        x: &[f32],
        w: &[f32],
        excess: f64,
    ) -> Vec<f64> {
        let side = excess.signum();
        let (mut low, mut high) = (0.0, 1e6);
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            match side * left(w, excess, &family(x, w, side, middle)) > 0.0 {
                true => low = middle,
                false => high = middle,
            }
        }
        family(x, w, side, high)
    }

    fn inputs(philox: &Philox, case: usize) -> (Vec<f32>, Vec<f32>, f64) {
        let at = |i: usize| philox.uniform(4096 * case + i);
        let size = [1, 2, 3, 7, 64, 193][case % 6];
        let x = |i| match case % 4 {
            0 => (2.0 * at(i)).floor(),
            1 => (4.0 * at(i)).floor() / 4.0,
            _ => at(i),
        };
        let w = |i| match case % 3 {
            0 if at(500 + i) < 0.4 => 0.0,
            _ => 2.0 * at(1000 + i) - 1.0,
        };
        let excess = f64::from(2.0 * at(2000) - 1.0) * 0.6 * size as f64 * f64::from(at(2001));
        ((0..size).map(x).collect(), (0..size).map(w).collect(), excess)
    }

    #[test]
    fn delta_is_the_shortest_that_bisection_finds() {
        let seed = Seed(crate::rng::seed::fresh_seed());
        let philox = seed.stream("hyperplane", 0, 0);
        let linf = |delta: &[f64]| delta.iter().fold(0.0f64, |length, step| length.max(step.abs()));
        let l2 = |delta: &[f64]| delta.iter().map(|step| step * step).sum::<f64>().sqrt();
        let (mut reached, mut missed) = (0, 0);
        for case in 0..600 {
            let (x, w, excess) = inputs(&philox, case);
            let most = corner(&x, &w, excess.signum(), 1.0);
            let beyond = excess.signum() * left(&w, excess, &most);
            let check = |shortest: Shortest, brute: Vec<f64>, length: &dyn Fn(&[f64]) -> f64| {
                let delta = shortest(&x, &w, excess);
                let what = format!("{seed:?}, case {case}: {delta:?}");
                for ((x, w), step) in x.iter().zip(&w).zip(&delta) {
                    assert!((-1e-12..=1.0 + 1e-12).contains(&(f64::from(*x) + step)), "{what}");
                    assert!(*w != 0.0 || *step == 0.0, "{what}");
                }
                let left = left(&w, excess, &delta).abs();
                // Where the plane does not meet the box: all the room there is.
                assert!((left - beyond.max(0.0)).abs() < 1e-9, "{what}: {left} and {beyond}");
                let (got, want) = (length(&delta), length(&brute));
                assert!(beyond > 0.0 || (got - want).abs() < 1e-8, "{what}: {got}, not {want}");
            };
            check(shortest_linf, bisected(corner, &x, &w, excess), &linf);
            check(shortest_l2, bisected(pulled, &x, &w, excess), &l2);
            reached += usize::from(beyond <= 0.0);
            missed += usize::from(beyond > 0.0);
        }
        assert!(reached > 100 && missed > 50, "{reached} {missed}");
    }

    #[test]
    fn without_a_normal_or_an_excess_nothing_moves() {
        assert_eq!(shortest_linf(&[0.2, 1.0], &[0.0, 0.0], 3.0), [0.0, 0.0]);
        assert_eq!(shortest_linf(&[0.2, 0.5], &[1.0, -1.0], 0.0), [0.0, 0.0]);
        assert_eq!(shortest_linf(&[], &[], 1.0), [0.0; 0]);
    }
}
