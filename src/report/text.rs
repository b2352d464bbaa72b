//! Numbers and names as text.

use crate::attack::Epsilon;

/// A number with so many decimals; one that would be very long in powers of ten; a dash for no number.
pub fn fixed(value: f64, decimals: usize) -> String {
    match value {
        _ if value.is_nan() => "–".into(),
        _ if value.abs() < 1e9 => format!("{value:.decimals$}"),
        _ => format!("{value:.2e}"),
    }
}

/// As [`fixed`]; a dash where there is nothing.
pub fn fixed_or_dash(value: Option<f64>, decimals: usize) -> String {
    fixed(value.unwrap_or(f64::NAN), decimals)
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Text inside a line of Markdown, also in a cell of a table.
pub fn inline(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace('|', "\\|").replace('<', "&lt;")
}

/// A whole number with a comma between thousands.
pub fn grouped(value: f64) -> String {
    if value.abs() >= 1e15 {
        return format!("{value:e}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = if value < 0.0 { "−".to_owned() } else { String::new() };
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `8/255` where it is such a fraction.
pub fn eps_text(eps: f64) -> String {
    Epsilon::try_from(eps).map_or_else(|_| eps.to_string(), |eps| eps.to_string())
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_short() {
        assert_eq!(["–", "1.50", "1.00e308"], [f64::NAN, 1.5, 1e308].map(|value| fixed(value, 2)));
    }
}
