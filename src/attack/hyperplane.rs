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
