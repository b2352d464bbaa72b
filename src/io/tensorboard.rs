//! TensorBoard's event files: records of protobuf messages with checksums.
//!
//! A record is its length (u64), the masked CRC32C of these eight bytes, the message, and the masked CRC32C of the
//! message; all little-endian. Source: TensorFlow's `record_writer.h`, `event.proto` and `summary.proto`.

use prost::Message;

/// The part of `tensorflow.Event` that scalars need.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970 by the format; here the step, so that the bytes of a run depend on its content alone.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    /// The step on the horizontal axis.
    #[prost(int64, tag = "2")]
    pub step: i64,
    /// Of the first record.
    #[prost(string, optional, tag = "3")]
    pub file_version: Option<String>,
    /// Of every other record.
    #[prost(message, optional, tag = "5")]
    pub summary: Option<Summary>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    /// The scalars.
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Scalar>,
}

/// `tensorflow.Summary.Value` with a simple value.
#[derive(Clone, PartialEq, Message)]
pub struct Scalar {
    /// The name of its curve.
    #[prost(string, tag = "1")]
    pub tag: String,
    /// The value.
    #[prost(float, optional, tag = "2")]
    pub simple_value: Option<f32>,
}

impl Event {
    /// What a file begins with.
    pub fn version() -> Self {
        Self { file_version: Some("brain.Event:2".into()), ..Self::default() }
    }

    /// Values at a step, by the names of their curves.
    pub fn scalars(step: u64, values: &[(&str, f64)]) -> Self {
        let scalar = |&(tag, value): &(&str, f64)| Scalar {
            tag: tag.to_owned(),
            simple_value: Some(value as f32),
        };
        let summary = Summary { value: values.iter().map(scalar).collect() };
        let wall_time = step as f64;
        Self { wall_time, step: step as i64, summary: Some(summary), ..Self::default() }
    }

    /// The value of the curve `tag`.
    pub fn value(&self, tag: &str) -> Option<f32> {
        let values = &self.summary.as_ref()?.value;
        values.iter().find(|value| value.tag == tag)?.simple_value
    }

    /// The record.
    pub fn record(&self) -> Vec<u8> {
        let message = self.encode_to_vec();
        let length = (message.len() as u64).to_le_bytes();
        let (of_length, of_message) = (masked(&length), masked(&message));
        [&length[..], &of_length.to_le_bytes(), &message, &of_message.to_le_bytes()].concat()
    }

    /// The first record of `bytes` and what follows it; `None` where it is torn or corrupt.
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let (check, rest) = rest.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*check) != masked(length) {
            return None;
        }
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (message, rest) = rest.split_at_checked(length)?;
        let (check, rest) = rest.split_first_chunk::<4>()?;
        let event = Self::decode(message).ok()?;
        (u32::from_le_bytes(*check) == masked(message)).then_some((event, rest))
    }
}

/// Castagnoli's polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// The checksum as records hold it: the format rotates it and adds a constant, for messages that hold checksums.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of RFC 3720, B.4.
    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn torn_and_corrupt_records_are_none() {
        let event = Event::scalars(3, &[("a", 0.5), ("b", -1.0)]);
        let record = event.record();
        let two = [&record[..], b"rest"].concat();
        assert_eq!(Event::read(&two), Some((event, &b"rest"[..])));
        for at in 0..record.len() {
            assert_eq!(Event::read(&record[..at]), None, "cut at {at}");
            let mut corrupt = record.clone();
            corrupt[at] ^= 1;
            assert_eq!(Event::read(&corrupt), None, "changed at {at}");
        }
    }
}
