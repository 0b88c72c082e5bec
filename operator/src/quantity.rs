//! Kubernetes quantities, compared by value: the API server rewrites `1024Mi` as `1Gi`.

/// The value in thousandths, or nothing if this is no quantity above zero that fits. Fractions of a
/// thousandth count as one, as in Kubernetes.
#[must_use]
pub fn thousandths(text: &str) -> Option<u128> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 24 {
        return None;
    }
    let decimal = |exponent: u32| 10_u128.checked_pow(exponent);
    let binary =
        |exponent: u32| 1024_u128.checked_pow(exponent).and_then(|unit| unit.checked_mul(1000));
    // In thousandths, so that milli is a whole number.
    let unit = match suffix {
        "m" => decimal(0),
        "" => decimal(3),
        "k" => decimal(6),
        "M" => decimal(9),
        "G" => decimal(12),
        "T" => decimal(15),
        "P" => decimal(18),
        "E" => decimal(21),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        // The exponent form: 12e9.
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            decimal(
                exponent
                    .strip_prefix('+')
                    .unwrap_or(exponent)
                    .parse::<u32>()
                    .ok()?
                    .checked_add(3)?,
            )
        }
    }?;
    let number: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = decimal(u32::try_from(fraction.len()).ok()?)?;
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
        assert!(same("12e9", "12G") && same("1E3", "1k") && same("1.5e+3", "1500"));
        assert!(same("1E", "1000P") && same("1Ei", "1024Pi"));
        assert!(!same("10G", "10Gi"));
        assert!(thousandths("10Gi") > thousandths("10G"));
        for none in [
            "",
            "Gi",
            "1.2.3",
            "-1",
            "1e",
            "1e99",
            "1Ex",
            "10 Gi",
            ".",
            "99999999999999999999999999999999999999999Pi",
        ] {
            assert_eq!(thousandths(none), None, "{none}");
        }
    }
}
