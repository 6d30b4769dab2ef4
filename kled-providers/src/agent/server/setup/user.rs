//! Whose user commands run as.

/// True where `user`, a name or number, is the user of this process. Commands run as that one.
pub(super) fn is_own(user: &str) -> bool {
    let own = rustix::process::geteuid().as_raw();
    match user.parse::<u32>() {
        Ok(number) => number == own,
        Err(_) => number_of(user, &std::fs::read_to_string("/etc/passwd").unwrap_or_default()) == Some(own),
    }
}

/// The number of a user in the text of `/etc/passwd`.
fn number_of(user: &str, passwd: &str) -> Option<u32> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(user));
    line.and_then(|line| line.split(':').nth(2)?.parse().ok()).or((user == "root").then_some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\ndev:x:1000:1000::/home/dev:/bin/sh\nbroken\n";
        assert_eq!(number_of("dev", passwd), Some(1000));
        assert_eq!(number_of("root", ""), Some(0));
        assert_eq!(number_of("broken", passwd), None);
        assert_eq!(number_of("de", passwd), None);
        assert!(is_own(&rustix::process::geteuid().as_raw().to_string()));
        assert!(!is_own("no-such-user"));
    }
}
