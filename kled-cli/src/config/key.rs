//! The keys: this file is the only place that lists them.

/// A setting. The documentation, the environment variables and the file's keys all come from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Which provider is used.
    Provider,
    /// How results are printed.
    Output,
    /// Whether output is coloured.
    Color,
    /// Where the local provider keeps workspaces.
    DataDirectory,
    /// How strongly a new workspace is kept apart.
    Isolation,
    /// The socket of the container engine.
    Engine,
    /// The context of the kubeconfig.
    KubernetesContext,
    /// The namespace that has the workspaces.
    KubernetesNamespace,
    /// The longest that a create may take.
    CreateTimeout,
    /// The longest that a start may take.
    StartTimeout,
    /// The longest that a stop may take.
    StopTimeout,
    /// The longest that a delete may take.
    DeleteTimeout,
}

impl Key {
    /// Every key, in the order in which they are shown.
    pub const ALL: [Self; 12] = [
        Self::Provider,
        Self::Output,
        Self::Color,
        Self::DataDirectory,
        Self::Isolation,
        Self::Engine,
        Self::KubernetesContext,
        Self::KubernetesNamespace,
        Self::CreateTimeout,
        Self::StartTimeout,
        Self::StopTimeout,
        Self::DeleteTimeout,
    ];

    /// The key in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Output => "output",
            Self::Color => "color",
            Self::DataDirectory => "data-directory",
            Self::Isolation => "isolation",
            Self::Engine => "engine",
            Self::KubernetesContext => "kubernetes-context",
            Self::KubernetesNamespace => "kubernetes-namespace",
            Self::CreateTimeout => "create-timeout",
            Self::StartTimeout => "start-timeout",
            Self::StopTimeout => "stop-timeout",
            Self::DeleteTimeout => "delete-timeout",
        }
    }

    /// The environment variable: the name in capitals after `KLED_`.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Provider => "KLED_PROVIDER",
            Self::Output => "KLED_OUTPUT",
            Self::Color => "KLED_COLOR",
            Self::DataDirectory => "KLED_DATA_DIRECTORY",
            Self::Isolation => "KLED_ISOLATION",
            Self::Engine => "KLED_ENGINE",
            Self::KubernetesContext => "KLED_KUBERNETES_CONTEXT",
            Self::KubernetesNamespace => "KLED_KUBERNETES_NAMESPACE",
            Self::CreateTimeout => "KLED_CREATE_TIMEOUT",
            Self::StartTimeout => "KLED_START_TIMEOUT",
            Self::StopTimeout => "KLED_STOP_TIMEOUT",
            Self::DeleteTimeout => "KLED_DELETE_TIMEOUT",
        }
    }

    /// The default, where it depends on nothing.
    #[must_use]
    pub const fn fixed_default(self) -> Option<&'static str> {
        match self {
            Self::Provider
            | Self::DataDirectory
            | Self::Engine
            | Self::KubernetesContext
            | Self::KubernetesNamespace => None,
            Self::Output => Some("table"),
            Self::Color => Some("auto"),
            Self::Isolation => Some("default"),
            // A clone takes the most of a create.
            Self::CreateTimeout => Some("10m"),
            Self::StartTimeout | Self::DeleteTimeout => Some("2m"),
            Self::StopTimeout => Some("1m"),
        }
    }

    /// True when the value is a path, which is then relative to where it was written.
    #[must_use]
    pub const fn is_path(self) -> bool {
        matches!(self, Self::DataDirectory)
    }

    /// The key of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_follow_from_names() {
        for key in Key::ALL {
            assert_eq!(key.variable(), format!("KLED_{}", key.name().to_uppercase().replace('-', "_")));
            assert_eq!(Key::from_name(key.name()), Some(key));
        }
    }

    #[test]
    fn the_readme_lists_every_key() {
        let readme = include_str!("../../README.md");
        for key in Key::ALL {
            let row = format!("| `{}` | `{}` |", key.name(), key.variable());
            assert!(readme.contains(&row), "README.md lacks: {row}");
        }
    }
}
