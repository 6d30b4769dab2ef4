//! Kubernetes quantities: `500m`, `2`, `4Gi`, `1e3`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Quantities are kept in billionths, the smallest unit that Kubernetes has (`n`).
const NANO: i128 = 1_000_000_000;

/// An amount in the notation of Kubernetes, compared by value: `1` equals `1000m`, `1Gi` equals `1024Mi`.
///
/// Source of the format: the reference page of `Quantity` in the Kubernetes API documentation.
///
/// ```
/// use kled_core::Quantity;
///
/// let half: Quantity = "500m".parse()?;
/// assert_eq!(half.millis(), 500);
/// assert_eq!("4Gi".parse::<Quantity>()?.value(), 4 << 30);
/// assert_eq!("1".parse::<Quantity>()?, "1000m".parse()?);
/// # Ok::<_, kled_core::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Quantity {
    /// As written, so that what the user wrote is what the user sees.
    text: String,
    nano: i128,
}

impl Quantity {
    /// The amount in whole units, rounded up, as Kubernetes does.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.divided_up(NANO)
    }

    /// The amount in thousandths, rounded up. For cpu these are millicores.
    #[must_use]
    pub fn millis(&self) -> u64 {
        self.divided_up(NANO / 1000)
    }

    fn divided_up(&self, unit: i128) -> u64 {
        u64::try_from((self.nano + unit - 1) / unit).unwrap_or(u64::MAX)
    }
}

/// The value of a suffix in billionths.
fn suffix_in_nano(suffix: &str) -> Option<i128> {
    let binary = |power: u32| NANO << (10 * power);
    Some(match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => NANO,
        "k" => NANO * 1_000,
        "M" => NANO * 1_000_000,
        "G" => NANO * 1_000_000_000,
        "T" => NANO * 1_000_000_000_000,
        "P" => NANO * 1_000_000_000_000_000,
        "E" => NANO * 1_000_000_000_000_000_000,
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10_i128.checked_pow(power.unsigned_abs())?;
            if power >= 0 { NANO.checked_mul(factor)? } else { NANO / factor }
        }
    })
}

fn parse_nano(text: &str) -> Option<i128> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let digits_end = unsigned
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    let unit = suffix_in_nano(suffix)?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    // Rounded up to the next billionth, as Kubernetes does.
    Some((digits.checked_mul(unit)?.checked_add(scale - 1)?) / scale)
}

impl FromStr for Quantity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let nano = parse_nano(text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "malformed quantity")
                .with("value", format!("{text:?}"))
                .hint("write a Kubernetes quantity that is not negative, for example 500m, 2, 512Mi or 4Gi")
        })?;
        Ok(Self { text: text.into(), nano })
    }
}

impl TryFrom<String> for Quantity {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Quantity> for String {
    fn from(quantity: Quantity) -> Self {
        quantity.text
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn malformed_quantities_are_refused() {
        for text in ["", "-1", "Gi", ".", "1.2.3", "1 Gi", "1gi", "1ki", "e3", "1e", "0x10", "1e400"] {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn fractions_round_up() {
        assert_eq!("0.1".parse::<Quantity>().unwrap().value(), 1);
        assert_eq!("1.5Gi".parse::<Quantity>().unwrap().value(), 3 << 29);
        assert_eq!("1e3".parse::<Quantity>().unwrap().value(), 1000);
        assert_eq!("100u".parse::<Quantity>().unwrap().millis(), 1);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,40}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn a_thousand_of_a_smaller_unit_is_one_of_the_larger(amount in 0_u32..1_000_000) {
            let smaller: Quantity = format!("{}m", u64::from(amount) * 1000).parse().unwrap();
            let larger: Quantity = amount.to_string().parse().unwrap();
            prop_assert_eq!(&smaller, &larger);
            prop_assert_eq!(larger.value(), u64::from(amount));
        }
    }
}
