//! Kubernetes quantities, compared by value: the API server rewrites `1024Mi` as `1Gi`.

/// The value in thousandths, or nothing if this is no quantity that we compare (sign, exponent
/// form).
#[must_use]
pub fn thousandths(text: &str) -> Option<u128> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 24 {
        return None;
    }
    // In thousandths, so that milli is a whole number.
    let unit: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1000 * 1000,
        "M" => 1000 * 1000_u128.pow(2),
        "G" => 1000 * 1000_u128.pow(3),
        "T" => 1000 * 1000_u128.pow(4),
        "P" => 1000 * 1000_u128.pow(5),
        "Ki" => 1000 * 1024,
        "Mi" => 1000 * 1024_u128.pow(2),
        "Gi" => 1000 * 1024_u128.pow(3),
        "Ti" => 1000 * 1024_u128.pow(4),
        "Pi" => 1000 * 1024_u128.pow(5),
        _ => return None,
    };
    let number: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    number.checked_mul(unit).map(|value| value.div_ceil(scale))
}

/// Whether both are quantities of the same value.
#[must_use]
pub fn same(left: &str, right: &str) -> bool {
    left == right
        || matches!((thousandths(left), thousandths(right)), (Some(left), Some(right)) if left == right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_compared_by_value() {
        assert!(same("1024Mi", "1Gi"));
        assert!(same("1000m", "1"));
        assert!(same("0.1", "100m"));
        assert!(same("1.5Gi", "1536Mi"));
        assert!(!same("10G", "10Gi"));
        assert!(thousandths("10Gi") > thousandths("10G"));
        for none in [
            "",
            "Gi",
            "1.2.3",
            "-1",
            "1e3",
            "10 Gi",
            ".",
            "99999999999999999999999999999999999999999Pi",
        ] {
            assert_eq!(thousandths(none), None, "{none}");
        }
    }
}
