//! The shortest way from a point of the box [0, 1]^d to a hyperplane, inside the box.
//!
//! `min ‖δ‖_∞  subject to  ⟨w, x + δ⟩ = b,  0 ≤ x + δ ≤ 1`. With c = ⟨w, x⟩ − b > 0 (else w and c change sign) every
//! coordinate gives way against the sign of its w: by λ, or where the box ends before that, by its room r_i (x_i for w_i > 0,
//! 1 − x_i for w_i < 0). What that takes off, `Σ |w_i| min(λ, r_i)`, grows with λ and is linear between the sorted r_i, so that the λ
//! which takes off c is found in one pass. Where all the room together does not reach the plane, all of it is used.
//!
//! Source: Croce & Hein 2020, arXiv 1907.02044, section 2.2.

/// δ for a point `x`, a normal `w` and the `excess` ⟨w, x⟩ − b; 0 where w is 0.
///
/// Equal lengths; O(d log d).
pub(super) fn shortest_linf(x: &[f32], w: &[f32], excess: f64) -> Vec<f64> {
    let side = if excess < 0.0 { -1.0 } else { 1.0 };
    let room = |x: f32, w: f32| {
        let x = f64::from(x);
        if side * f64::from(w) > 0.0 { x } else { 1.0 - x }
    };
    let used = || x.iter().zip(w).filter(|(_, w)| **w != 0.0);
    let mut rooms: Vec<(f64, f64)> =
        used().map(|(&x, &w)| (room(x, w), f64::from(w).abs())).collect();
    rooms.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut slope: f64 = rooms.iter().map(|(_, weight)| weight).sum();
    let (mut left, mut moved) = (excess.abs(), 0.0);
    for (room, weight) in rooms {
        let taken = slope * (room - moved);
        if taken >= left {
            break;
        }
        left -= taken;
        moved = room;
        slope -= weight;
        if slope <= 0.0 {
            left = 0.0;
        }
    }
    let length = if slope > 0.0 { moved + left / slope } else { moved };
    let shift = |(&x, &w): (&f32, &f32)| match w {
        0.0 => 0.0,
        _ => -side * f64::from(w).signum() * room(x, w).min(length),
    };
    x.iter().zip(w).map(shift).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use crate::rng::Philox;
    use std::time::SystemTime;

    /// The point of the box within `radius` of x that is farthest down the normal, and what is left of the excess there.
    fn farthest(x: &[f32], w: &[f32], excess: f64, radius: f64) -> f64 {
        let side = excess.signum();
        let moved = x.iter().zip(w).map(|(&x, &w)| {
            let (x, w) = (f64::from(x), f64::from(w));
            let y = (x - side * radius * w.signum()).clamp(0.0, 1.0);
            if w == 0.0 { 0.0 } else { w * (y - x) }
        });
        side * (excess + moved.sum::<f64>())
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
    fn the_way_is_the_shortest_that_bisection_finds() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let seed = Seed(now.as_nanos() as u64);
        let philox = seed.stream("hyperplane", 0, 0);
        let (mut reached, mut missed) = (0, 0);
        for case in 0..600 {
            let (x, w, excess) = inputs(&philox, case);
            let way = shortest_linf(&x, &w, excess);
            let length = way.iter().fold(0.0f64, |length, step| length.max(step.abs()));
            let what = format!("{seed:?}, case {case}: {way:?}");
            for ((x, w), step) in x.iter().zip(&w).zip(&way) {
                assert!((-1e-12..=1.0 + 1e-12).contains(&(f64::from(*x) + step)), "{what}");
                assert!(*w != 0.0 || *step == 0.0, "{what}");
            }
            let along = w.iter().zip(&way).map(|(&w, step)| f64::from(w) * step);
            let left = excess + along.sum::<f64>();
            if farthest(&x, &w, excess, 1.0) > 0.0 {
                // The plane does not meet the box: all the room there is.
                missed += 1;
                let best = farthest(&x, &w, excess, 1.0);
                assert!((left.abs() - best).abs() < 1e-9, "{what}: {left}, not {best}");
                continue;
            }
            reached += 1;
            assert!(left.abs() < 1e-9, "{what}: {left} left");
            let (mut low, mut high) = (0.0, 1.0);
            for _ in 0..100 {
                let middle = 0.5 * (low + high);
                match farthest(&x, &w, excess, middle) > 0.0 {
                    true => low = middle,
                    false => high = middle,
                }
            }
            assert!((length - high).abs() < 1e-9, "{what}: {length}, not {high}");
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
