//! What is asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{CommitId, History, ReferenceName, Repository, Revision, Source, SubPath};
use crate::{Error, ErrorKind, LabelKey, LabelValue, Quantity, Result, SecretReference, VariableName};

/// Limits of a workspace. What a backend does not enforce it says in its
/// [`Capabilities`](crate::provider::Capabilities) and in the workspace's conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// Processors: `500m` is half of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Memory in bytes: `4Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Disk in bytes: `20Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Quantity>,
    /// Other resources by the names that Kubernetes gives them: `nvidia.com/gpu`, `ephemeral-storage`. Backends without
    /// them refuse the spec.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extended: BTreeMap<LabelKey, Quantity>,
}

impl Resources {
    /// For backends that have none but processors, memory and disk.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] naming the first other resource.
    pub fn refuse_extended(&self) -> Result<()> {
        match self.extended.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::new(ErrorKind::Unsupported, "this backend has no such resource")
                .with("resource", name)),
        }
    }
}

/// How strongly a workspace is kept apart from the machine that it runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// The strongest that the backend has for this spec.
    #[default]
    Default,
    /// Processes of the machine, sandboxed. Fails where no sandbox can be had.
    Process,
    /// A container.
    Container,
    /// No sandbox: commands can do what the user can. For trusted repositories only.
    None,
}

impl fmt::Display for Isolation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Default => "default",
            Self::Process => "process",
            Self::Container => "container",
            Self::None => "none",
        })
    }
}

impl FromStr for Isolation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "default" => Ok(Self::Default),
            "process" => Ok(Self::Process),
            "container" => Ok(Self::Container),
            "none" => Ok(Self::None),
            _ => Err(Error::new(ErrorKind::InvalidInput, "unknown isolation")
                .with("value", format!("{text:?}"))
                .hint("use default, process, container or none")),
        }
    }
}

/// The transport of a [`Port`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A port on which something in the workspace listens, written `8080` or `5353/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// 1 to 65535.
    pub number: std::num::NonZeroU16,
    /// The transport.
    #[serde(default)]
    pub protocol: Protocol,
}

impl FromStr for Port {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = || {
            Error::new(ErrorKind::InvalidInput, "malformed port")
                .with("value", format!("{text:?}"))
                .hint("write 8080 or 5353/udp")
        };
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(malformed()),
        };
        Ok(Self { number: number.parse().map_err(|_| malformed())?, protocol })
    }
}

/// Everything that a workspace is made from. Two specs that are equal make the same workspace.
///
/// ```
/// use kled_core::workspace::WorkspaceSpec;
///
/// let spec = WorkspaceSpec::builder("https://github.com/org/app")
///     .branch("main")
///     .cpu("2")
///     .memory("4Gi")
///     .environment("RUST_LOG", "info")
///     .build()?;
/// assert_eq!(spec.resources.memory.unwrap().value(), 4 << 30);
///
/// let error = WorkspaceSpec::builder("https://github.com/org/app").memory("4 GB").build().unwrap_err();
/// assert!(error.to_string().contains("memory"));
/// # Ok::<_, kled_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkspaceSpec {
    /// What is checked out.
    pub source: Source,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
    /// The container image, where the backend runs containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How strongly it is kept apart.
    #[serde(default)]
    pub isolation: Isolation,
    /// Environment variables of every command, stored in clear.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<VariableName, String>,
    /// Environment variables whose values are resolved when a command starts and are stored nowhere.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<VariableName, SecretReference>,
    /// Ports that are of interest outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Labels, as Kubernetes has them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Stop after so long without a command. No limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_duration")]
    pub idle_timeout: Option<Duration>,
    /// Delete, data included, so long after creation. Never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_duration")]
    pub time_to_live: Option<Duration>,
}

impl WorkspaceSpec {
    /// Begins a spec for a repository: a URL, an scp-like address or a local path.
    pub fn builder(repository: impl Into<String>) -> WorkspaceSpecBuilder {
        WorkspaceSpecBuilder { repository: repository.into(), ..WorkspaceSpecBuilder::default() }
    }

    /// The end of the time to live of a workspace that was created then; `None` where it has none.
    #[must_use]
    pub fn expires(&self, created: Timestamp) -> Option<Timestamp> {
        created.checked_add(self.time_to_live?).ok()
    }

    /// The fields in which two specs differ, for a conflict error that can be acted on.
    #[must_use]
    pub fn differing_fields(&self, other: &Self) -> Vec<&'static str> {
        [
            ("source", self.source != other.source),
            ("resources", self.resources != other.resources),
            ("image", self.image != other.image),
            ("isolation", self.isolation != other.isolation),
            ("environment", self.environment != other.environment),
            ("secrets", self.secrets != other.secrets),
            ("ports", self.ports != other.ports),
            ("labels", self.labels != other.labels),
            ("idleTimeout", self.idle_timeout != other.idle_timeout),
            ("timeToLive", self.time_to_live != other.time_to_live),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }

    /// The error of a create under a name that is taken by `existing`, or nothing when the two are the same.
    #[must_use]
    pub fn conflict_with(&self, name: &crate::WorkspaceName, existing: &Self) -> Option<Error> {
        let fields = self.differing_fields(existing);
        (!fields.is_empty()).then(|| {
            Error::new(ErrorKind::Conflict, "a workspace of this name exists with another spec")
                .with("workspace", name)
                .with("differs in", fields.join(", "))
                .hint("choose another name, or delete the workspace first")
        })
    }
}

/// Durations are written as `90s`, `30m` or `1h 30m`.
mod optional_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(super::format_duration).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| super::parse_duration(&text).map_err(serde::de::Error::custom))
            .transpose()
    }
}

fn format_duration(duration: Duration) -> String {
    jiff::fmt::friendly::SpanPrinter::new().unsigned_duration_to_string(&duration)
}

/// Parses a positive duration in the notation of specs: `90s`, `30m`, `1h 30m`.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] with the value.
pub fn parse_duration(text: &str) -> Result<Duration> {
    jiff::fmt::friendly::SpanParser::new()
        .parse_duration(text)
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "malformed duration")
                .with("value", format!("{text:?}"))
                .hint("write a positive duration such as 90s, 30m or 1h 30m")
        })
}

/// Builds a [`WorkspaceSpec`]. Setters never fail; [`build`](Self::build) names the first field that is malformed.
#[derive(Clone, Debug, Default)]
pub struct WorkspaceSpecBuilder {
    repository: String,
    branch: Option<String>,
    tag: Option<String>,
    commit: Option<String>,
    path: Option<String>,
    history: History,
    cpu: Option<String>,
    memory: Option<String>,
    disk: Option<String>,
    extended: Vec<(String, String)>,
    image: Option<String>,
    isolation: Isolation,
    environment: Vec<(String, String)>,
    secrets: Vec<(String, String)>,
    ports: Vec<String>,
    labels: Vec<(String, String)>,
    idle_timeout: Option<String>,
    time_to_live: Option<String>,
}

/// Setters of one text each.
macro_rules! text_setters {
    ($($(#[$documentation:meta])* $field:ident),+ $(,)?) => {
        $(
            $(#[$documentation])*
            #[must_use]
            pub fn $field(mut self, value: impl Into<String>) -> Self {
                self.$field = Some(value.into());
                self
            }
        )+
    };
}

/// Setters that add a pair.
macro_rules! pair_setters {
    ($($(#[$documentation:meta])* $name:ident => $field:ident),+ $(,)?) => {
        $(
            $(#[$documentation])*
            #[must_use]
            pub fn $name(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
                self.$field.push((key.into(), value.into()));
                self
            }
        )+
    };
}

impl WorkspaceSpecBuilder {
    text_setters! {
        /// Checks out the tip of a branch. Excludes `tag` and `commit`.
        branch,
        /// Checks out a tag. Excludes `branch` and `commit`.
        tag,
        /// Checks out a commit. Excludes `branch` and `tag`.
        commit,
        /// Checks out one folder only.
        path,
        /// Limits processors, as a Kubernetes quantity.
        cpu,
        /// Limits memory, as a Kubernetes quantity.
        memory,
        /// Limits disk, as a Kubernetes quantity.
        disk,
        /// Names the container image.
        image,
        /// Stops the workspace after so long without a command: `30m`.
        idle_timeout,
        /// Deletes the workspace so long after its creation: `8h`.
        time_to_live,
    }

    pair_setters! {
        /// Adds an environment variable. The last value of a name counts.
        environment => environment,
        /// Adds an environment variable from a secret reference: `env:NAME`, `file:PATH`.
        secret => secrets,
        /// Adds a label.
        label => labels,
        /// Asks for a resource by its Kubernetes name: `nvidia.com/gpu`, `ephemeral-storage`.
        resource => extended,
    }

    /// Says how strongly the workspace is kept apart.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// Fetches the whole history instead of one commit.
    #[must_use]
    pub fn full_history(mut self) -> Self {
        self.history = History::Full;
        self
    }

    /// Adds a port: `8080` or `5353/udp`.
    #[must_use]
    pub fn port(mut self, port: impl Into<String>) -> Self {
        self.ports.push(port.into());
        self
    }

    /// Parses everything that was set.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] naming the field, the value and the rule.
    pub fn build(self) -> Result<WorkspaceSpec> {
        Ok(WorkspaceSpec {
            source: Source {
                repository: in_field("repository", self.repository.parse::<Repository>())?,
                revision: revision(self.branch, self.tag, self.commit)?,
                path: parsed::<SubPath>("path", self.path)?,
                history: self.history,
            },
            resources: Resources {
                cpu: parsed("cpu", self.cpu)?,
                memory: parsed("memory", self.memory)?,
                disk: parsed("disk", self.disk)?,
                extended: pairs("resources", self.extended)?,
            },
            image: self.image.map(|image| in_field("image", checked_image(image))).transpose()?,
            isolation: self.isolation,
            environment: environment(self.environment)?,
            secrets: pairs("secrets", self.secrets)?,
            ports: in_field("ports", self.ports.iter().map(|port| port.parse()).collect())?,
            labels: pairs("labels", self.labels)?,
            idle_timeout: duration("idleTimeout", self.idle_timeout)?,
            time_to_live: duration("timeToLive", self.time_to_live)?,
        })
    }
}

fn in_field<T>(field: &'static str, result: Result<T>) -> Result<T> {
    result.map_err(|error| error.with("field", field))
}

fn parsed<T: FromStr<Err = Error>>(field: &'static str, text: Option<String>) -> Result<Option<T>> {
    text.map(|text| in_field(field, text.parse())).transpose()
}

fn duration(field: &'static str, text: Option<String>) -> Result<Option<Duration>> {
    text.map(|text| in_field(field, parse_duration(&text))).transpose()
}

fn pairs<K, V>(field: &'static str, pairs: Vec<(String, String)>) -> Result<BTreeMap<K, V>>
where
    K: FromStr<Err = Error> + Ord,
    V: FromStr<Err = Error>,
{
    in_field(field, pairs.into_iter().map(|(key, value)| Ok((key.parse()?, value.parse()?))).collect())
}

fn environment(pairs: Vec<(String, String)>) -> Result<BTreeMap<VariableName, String>> {
    let checked = |(name, value): (String, String)| {
        let name: VariableName = name.parse()?;
        if value.contains('\0') {
            return Err(
                Error::new(ErrorKind::InvalidInput, "the value has a NUL character").with("variable", name)
            );
        }
        Ok((name, value))
    };
    in_field("environment", pairs.into_iter().map(checked).collect())
}

fn checked_image(image: String) -> Result<String> {
    let printable = image.bytes().all(|byte| byte.is_ascii_graphic());
    if image.is_empty() || image.starts_with('-') || !printable {
        return Err(Error::new(ErrorKind::InvalidInput, "malformed image reference")
            .with("value", format!("{image:?}"))
            .hint("write NAME, NAME:TAG or NAME@DIGEST"));
    }
    Ok(image)
}

fn revision(branch: Option<String>, tag: Option<String>, commit: Option<String>) -> Result<Revision> {
    match (branch, tag, commit) {
        (None, None, None) => Ok(Revision::Default),
        (Some(branch), None, None) => {
            in_field("branch", branch.parse::<ReferenceName>()).map(Revision::Branch)
        }
        (None, Some(tag), None) => in_field("tag", tag.parse::<ReferenceName>()).map(Revision::Tag),
        (None, None, Some(commit)) => in_field("commit", commit.parse::<CommitId>()).map(Revision::Commit),
        _ => Err(Error::new(ErrorKind::InvalidInput, "branch, tag and commit exclude one another")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_spec_survives_serialisation() {
        let spec = WorkspaceSpec::builder("git@example.com:org/app.git")
            .tag("v1.0")
            .path("web")
            .full_history()
            .cpu("500m")
            .memory("512Mi")
            .disk("1Gi")
            .resource("nvidia.com/gpu", "1")
            .image("example.com/app@sha256:00")
            .isolation(Isolation::Container)
            .environment("A", "1")
            .secret("TOKEN", "env:TOKEN")
            .port("8080")
            .port("5353/udp")
            .label("kled.io/team", "a")
            .idle_timeout("30m")
            .time_to_live("1h 30m")
            .build()
            .unwrap();
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<WorkspaceSpec>(&json).unwrap(), spec);
        assert_eq!(spec.time_to_live, Some(Duration::from_secs(5400)));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let json = r#"{"source": {"repository": "."}, "memroy": "1Gi"}"#;
        let error = serde_json::from_str::<WorkspaceSpec>(json).unwrap_err();
        assert!(error.to_string().contains("memroy"), "{error}");
    }

    #[test]
    fn every_malformed_field_is_named() {
        let base = || WorkspaceSpec::builder(".");
        let cases = [
            (WorkspaceSpec::builder(""), "repository"),
            (base().branch("a..b"), "branch"),
            (base().tag(" "), "tag"),
            (base().commit("HEAD"), "commit"),
            (base().path("../x"), "path"),
            (base().cpu("two"), "cpu"),
            (base().memory("4GB"), "memory"),
            (base().disk("-1"), "disk"),
            (base().resource("nvidia.com/gpu", "one"), "resources"),
            (base().image("a b"), "image"),
            (base().environment("1A", ""), "environment"),
            (base().secret("A", "plain"), "secrets"),
            (base().port("0"), "ports"),
            (base().label("-", "x"), "labels"),
            (base().idle_timeout("soon"), "idleTimeout"),
            (base().time_to_live("0s"), "timeToLive"),
        ];
        for (builder, field) in cases {
            let error = builder.build().expect_err(field);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.context().any(|pair| pair == ("field", field)), "{field}: {error}");
        }
    }

    #[test]
    fn a_conflict_names_what_differs() {
        let name = crate::WorkspaceName::new("demo").unwrap();
        let one = WorkspaceSpec::builder(".").cpu("1").build().unwrap();
        let same = WorkspaceSpec::builder(".").cpu("1000m").build().unwrap();
        let other = WorkspaceSpec::builder("..").cpu("2").build().unwrap();
        assert!(one.conflict_with(&name, &same).is_none());
        let error = one.conflict_with(&name, &other).unwrap();
        assert!(error.to_string().contains("source, resources"), "{error}");
    }
}
