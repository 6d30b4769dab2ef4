//! A workspace name for those who give none.

use sha2::{Digest, Sha256};

use super::{Repository, Revision, Source};
use crate::WorkspaceName;

/// Digits of the hash in a default name: 12 hexadecimal digits are 48 bits, so among a million sources the chance of
/// one shared name is below one in five hundred, and then create answers with a conflict, never with reuse.
const HASH_DIGITS: usize = 12;

/// What is left of a DNS label for the readable part.
const READABLE_MAX: usize = crate::id::LABEL_MAX - HASH_DIGITS - 1;

/// A readable name that two different repositories, revisions or sub-paths do not share: `app-1f0c2d3e4b5a`.
///
/// The last segment alone would name `a/app` and `b/app` alike, and the second would silently open the first; the
/// hash is taken over everything that tells two sources apart.
///
/// ```
/// use kled_core::workspace::{Source, default_name};
///
/// let name = |text: &str| Ok::<_, kled_core::Error>(default_name(&Source::new(text.parse()?)));
/// assert!(name("https://example.com/a/app")?.as_str().starts_with("app-"));
/// assert_ne!(name("https://example.com/a/app")?, name("https://example.com/b/app")?);
/// assert_eq!(name("https://example.com/a/app")?, name("https://EXAMPLE.com/a/app.git/")?);
/// # Ok::<_, kled_core::Error>(())
/// ```
#[must_use]
pub fn default_name(source: &Source) -> WorkspaceName {
    let readable = readable_part(source);
    let hash = hex::encode(Sha256::digest(identity(source).as_bytes()));
    let name = format!("{readable}-{}", &hash[..HASH_DIGITS]);
    // `readable` is a DNS label of at most READABLE_MAX characters, so the whole is one too.
    WorkspaceName::new(name)
        .unwrap_or_else(|_| unreachable!("a label, a hyphen and hexadecimal digits are a label"))
}

fn readable_part(source: &Source) -> String {
    let last = source.path.as_ref().and_then(|path| path.as_str().trim_end_matches('/').rsplit('/').next());
    let mut readable = String::new();
    for character in last.unwrap_or_else(|| source.repository.short_name()).chars() {
        match character.to_ascii_lowercase() {
            kept @ ('a'..='z' | '0'..='9') => readable.push(kept),
            _ if !readable.is_empty() && !readable.ends_with('-') => readable.push('-'),
            _ => {}
        }
        if readable.len() == READABLE_MAX {
            break;
        }
    }
    let readable = readable.trim_end_matches('-');
    if readable.is_empty() { "workspace".into() } else { readable.into() }
}

/// One text for each source; the parts are separated by a character that none of them can hold.
fn identity(source: &Source) -> String {
    let repository = match &source.repository {
        // `Url` has lower-cased the host and dropped the default port.
        Repository::Url(url) => without_git_suffix(url.as_str()).to_owned(),
        Repository::Scp { user, host, path } => {
            let user = user.as_deref().unwrap_or_default();
            format!("{user}@{}:{}", host.to_ascii_lowercase(), without_git_suffix(path))
        }
        Repository::Local(path) => format!("local:{}", path.display()),
    };
    let revision = match &source.revision {
        Revision::Default => String::new(),
        Revision::Branch(name) => format!("branch:{name}"),
        Revision::Tag(name) => format!("tag:{name}"),
        Revision::Commit(commit) => format!("commit:{commit}"),
    };
    let path = source.path.as_ref().map_or("", |path| path.as_str().trim_end_matches('/'));
    format!("{repository}\0{revision}\0{path}")
}

fn without_git_suffix(address: &str) -> &str {
    let address = address.trim_end_matches('/');
    address.strip_suffix(".git").unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn named(text: &str) -> String {
        default_name(&Source::new(text.parse().unwrap())).to_string()
    }

    #[test]
    fn names_are_readable() {
        assert!(named("git@github.com:org/My_App.git").starts_with("my-app-"));
        assert!(named("/srv/---").starts_with("workspace-"));
        assert!(named(&format!("/srv/{}", "x".repeat(200))).len() <= 63);
    }

    #[test]
    fn revisions_and_paths_tell_sources_apart() {
        let base = Source::new("https://example.com/app".parse().unwrap());
        let branch = Source { revision: Revision::Branch("pr-123".parse().unwrap()), ..base.clone() };
        let tag = Source { revision: Revision::Tag("pr-123".parse().unwrap()), ..base.clone() };
        let path = Source { path: Some("web".parse().unwrap()), ..base.clone() };
        let names: std::collections::BTreeSet<_> = [&base, &branch, &tag, &path].map(default_name).into();
        assert_eq!(names.len(), 4);
    }

    proptest! {
        #[test]
        fn different_repositories_have_different_names(
            repositories in prop::collection::vec("(https://h|ssh://git@h|git@h:|/h)/[a-b]{1,2}(/[a-b]{1,2}){0,2}", 2..40)
        ) {
            let mut seen = BTreeMap::new();
            for text in repositories {
                let repository: Repository = text.parse().unwrap();
                let source = Source::new(repository);
                let identity = identity(&source);
                let previous = seen.insert(default_name(&source), identity.clone());
                prop_assert!(previous.is_none_or(|previous| previous == identity));
            }
        }
    }
}
