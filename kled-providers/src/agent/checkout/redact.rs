//! Takes credentials out of what git prints.

/// Replaces the user part of each URL: the user's own `url.….insteadOf` may put a token there.
pub(crate) fn redact(line: &str) -> String {
    let mut redacted = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(position) = rest.find("://") {
        let (before, after) = rest.split_at(position + "://".len());
        redacted.push_str(before);
        let end = after
            .find(|character: char| character == '/' || character.is_whitespace())
            .unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                redacted.push_str("[redacted]");
                &after[at..]
            }
            None => after,
        };
    }
    redacted.push_str(rest);
    redacted
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn the_user_part_of_a_url_is_taken_out() {
        assert_eq!(
            redact(
                "fatal: unable to access 'https://me:p@ss@h.example/x/': from ssh://git@h/y and http://h/z@1"
            ),
            "fatal: unable to access 'https://[redacted]@h.example/x/': from ssh://[redacted]@h/y and http://h/z@1"
        );
        assert_eq!(redact("https://"), "https://");
        assert_eq!(redact("nothing"), "nothing");
    }
}
