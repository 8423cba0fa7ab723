//! Messages on a stream: four bytes of length, big-endian, then the line.
//!
//! A connection carries one message in each direction, and is closed.

use crate::messages::REQUEST_BYTES_MAX;

/// Bytes before each message.
pub const HEAD_BYTES: usize = 4;

/// Bytes in a message.
pub const MESSAGE_BYTES_MAX: usize = REQUEST_BYTES_MAX;

/// The message as it is sent.
///
/// # Panics
///
/// For a message over its limit, which nothing here writes.
pub fn write(line: &str) -> Vec<u8> {
    assert!(line.len() <= MESSAGE_BYTES_MAX, "messages have limits");
    let length = u32::try_from(line.len()).expect("the limit is far below 4 GiB");
    [&length.to_be_bytes(), line.as_bytes()].concat()
}

/// How many bytes come behind this head; `None` for more than [`MESSAGE_BYTES_MAX`], or none.
pub fn length(head: [u8; HEAD_BYTES]) -> Option<usize> {
    let length = usize::try_from(u32::from_be_bytes(head)).ok()?;
    (1..=MESSAGE_BYTES_MAX).contains(&length).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_how_much_comes_and_no_more_than_the_limit() {
        let sent = write("{}");

        assert_eq!(sent, [0, 0, 0, 2, b'{', b'}']);
        assert_eq!(length([0, 0, 0, 2]), Some(2));
        assert_eq!(length([0, 4, 0, 0]), Some(MESSAGE_BYTES_MAX));
        for head in [[0; 4], [0, 4, 0, 1], [0xff; 4]] {
            assert_eq!(length(head), None, "{head:?}");
        }
    }
}
