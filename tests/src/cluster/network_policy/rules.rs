//! The packet filters that policies ask for, as a function of what is in the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use kube::core::{Selector, SelectorExt as _};

use super::block::Block;

/// The chain that all packets of pods pass.
pub(super) const ROOT: &str = "KLED-POLICY";

/// The rules of each chain, without the chain's name.
pub(super) type Chains = BTreeMap<String, Vec<String>>;

/// What the cluster's policies are about.
pub(super) struct State<'a> {
    pub(super) policies: &'a [Arc<NetworkPolicy>],
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) namespaces: &'a [Arc<Namespace>],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Egress,
    Ingress,
}

/// The peers and the ports of one rule of a policy.
type Allowed<'a> = (&'a [NetworkPolicyPeer], &'a [NetworkPolicyPort]);

/// Whom a rule lets through.
enum Peer<'a> {
    Anyone,
    Block(Block),
    Pod(&'a Pod),
}

impl Side {
    const BOTH: [Self; 2] = [Self::Egress, Self::Ingress];

    fn type_name(self) -> &'static str {
        match self {
            Self::Egress => "Egress",
            Self::Ingress => "Ingress",
        }
    }

    fn chain(self, address: &str) -> String {
        match self {
            Self::Egress => format!("KLED-OUT-{address}"),
            Self::Ingress => format!("KLED-IN-{address}"),
        }
    }

    /// How a packet's own end is matched, and how its other end.
    fn options(self) -> (&'static str, &'static str) {
        match self {
            Self::Egress => ("-s", "-d"),
            Self::Ingress => ("-d", "-s"),
        }
    }

    fn is_isolated_by(self, policy: &NetworkPolicySpec) -> bool {
        match &policy.policy_types {
            Some(types) => types.iter().any(|name| name == self.type_name()),
            None => self == Self::Ingress || policy.egress.is_some(),
        }
    }

    /// What a policy lets through.
    fn allowed(self, policy: &NetworkPolicySpec) -> Vec<Allowed<'_>> {
        match self {
            Self::Egress => {
                let rules = policy.egress.iter().flatten();
                rules.map(|rule| (list(&rule.to), list(&rule.ports))).collect()
            }
            Self::Ingress => {
                let rules = policy.ingress.iter().flatten();
                rules.map(|rule| (list(&rule.from), list(&rule.ports))).collect()
            }
        }
    }
}

fn list<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

impl State<'_> {
    /// The filters: a packet passes what its sender and what its receiver are held to, one after the other.
    pub(super) fn chains(&self) -> Chains {
        let mut root = vec!["-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN".to_owned()];
        let mut chains = Chains::new();
        for side in Side::BOTH {
            for pod in self.pods {
                let Some(address) = address(pod) else { continue };
                let Some(rules) = self.rules(side, pod, address) else { continue };
                let (own, _) = side.options();
                root.push(format!("{own} {address}/32 -j {}", side.chain(address)));
                chains.insert(side.chain(address), rules);
            }
        }
        chains.insert(ROOT.to_owned(), root);
        chains
    }

    /// What a pod is held to; nothing if it is not isolated.
    fn rules(&self, side: Side, pod: &Pod, address: &str) -> Option<Vec<String>> {
        let namespace = pod.namespace().unwrap_or_default();
        let policies =
            self.policies.iter().filter(|policy| policy.namespace().as_deref() == Some(&namespace));
        let policies = policies.filter_map(|policy| policy.spec.as_ref());
        let mut policies = policies
            .filter(|policy| {
                side.is_isolated_by(policy) && selects(policy.pod_selector.as_ref(), pod.labels())
            })
            .peekable();
        policies.peek()?;
        let (_, other) = side.options();
        let mut rules = vec![format!("{other} {address}/32 -j RETURN")];
        for (peers, ports) in policies.flat_map(|policy| side.allowed(policy)) {
            for peer in self.peers(&namespace, peers) {
                let from_or_to = match &peer {
                    Peer::Anyone => String::new(),
                    Peer::Block(block) => format!("{other} {block} "),
                    Peer::Pod(peer) => match self::address(peer) {
                        Some(address) => format!("{other} {address}/32 "),
                        None => continue,
                    },
                };
                let receiver = match (side, &peer) {
                    (Side::Ingress, _) => Some(pod),
                    (Side::Egress, Peer::Pod(peer)) => Some(*peer),
                    (Side::Egress, _) => None,
                };
                let ports = port_matches(ports, receiver);
                rules.extend(ports.into_iter().map(|port| format!("{from_or_to}{port}-j RETURN")));
            }
        }
        rules.push("-j DROP".to_owned());
        Some(rules)
    }

    fn peers(&self, namespace: &str, peers: &[NetworkPolicyPeer]) -> Vec<Peer<'_>> {
        if peers.is_empty() {
            return vec![Peer::Anyone];
        }
        peers.iter().flat_map(|peer| self.peer(namespace, peer)).collect()
    }

    fn peer(&self, namespace: &str, peer: &NetworkPolicyPeer) -> Vec<Peer<'_>> {
        if let Some(block) = &peer.ip_block {
            let parts: Vec<Block> =
                block.except.iter().flatten().filter_map(|part| Block::parse(part)).collect();
            let blocks = Block::parse(&block.cidr).map(|block| block.without(&parts));
            return blocks.into_iter().flatten().map(Peer::Block).collect();
        }
        let is_meant = |pod: &&Arc<Pod>| {
            let of_pod = pod.namespace().unwrap_or_default();
            let in_namespace = match &peer.namespace_selector {
                None => of_pod == namespace,
                selector => {
                    self.namespace_labels(&of_pod).is_some_and(|labels| selects(selector.as_ref(), labels))
                }
            };
            in_namespace && selects(peer.pod_selector.as_ref(), pod.labels())
        };
        self.pods.iter().filter(is_meant).map(|pod| Peer::Pod(pod)).collect()
    }

    fn namespace_labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces
            .iter()
            .find(|namespace| namespace.name_any() == name)
            .map(|namespace| namespace.labels())
    }
}

/// A selector that is absent or empty selects all; one that cannot be read, none.
fn selects(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    let selector = selector.cloned().unwrap_or_default();
    Selector::try_from(selector).is_ok_and(|selector| selector.matches(labels))
}

/// The address of a pod that runs and has one of its own.
fn address(pod: &Pod) -> Option<&str> {
    let on_node = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let status = pod.status.as_ref()?;
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    status.pod_ip.as_deref().filter(|address| !on_node && !ended && !address.is_empty())
}

/// The beginnings of the rules for each port; one that matches all if none is named.
fn port_matches(ports: &[NetworkPolicyPort], receiver: Option<&Pod>) -> Vec<String> {
    if ports.is_empty() {
        return vec![String::new()];
    }
    ports.iter().flat_map(|port| port_match(port, receiver)).collect()
}

fn port_match(port: &NetworkPolicyPort, receiver: Option<&Pod>) -> Vec<String> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let lower = protocol.to_lowercase();
    let first = match &port.port {
        None => return vec![format!("-p {lower} ")],
        Some(IntOrString::Int(number)) => vec![*number],
        Some(IntOrString::String(name)) => named_ports(receiver, name, protocol),
    };
    let range = |first: i32| match port.end_port {
        Some(last) => format!("{first}:{last}"),
        None => first.to_string(),
    };
    first.into_iter().map(|first| format!("-p {lower} --dport {} ", range(first))).collect()
}

fn named_ports(pod: Option<&Pod>, name: &str, protocol: &str) -> Vec<i32> {
    let containers = pod.and_then(|pod| pod.spec.as_ref()).into_iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let is_meant = |port: &&k8s_openapi::api::core::v1::ContainerPort| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    ports.filter(is_meant).map(|port| port.container_port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Result;
    use serde_json::{Value, json};

    fn pod(namespace: &str, app: &str, address: &str) -> Value {
        json!({
            "metadata": {"name": app, "namespace": namespace, "labels": {"app": app}},
            "spec": {"containers": [{"name": "main", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": address},
        })
    }

    /// Three pods, of which a policy in the namespace `a` is about those with the label `app: server`.
    fn chains(spec: &Value) -> Result<Chains> {
        let mut spec = spec.clone();
        spec["podSelector"] = json!({"matchLabels": {"app": "server"}});
        let policy = json!({"metadata": {"name": "policy", "namespace": "a"}, "spec": spec});
        let pods =
            [pod("a", "server", "10.0.0.1"), pod("a", "client", "10.0.0.2"), pod("b", "client", "10.0.0.3")];
        let namespace = |name: &str| json!({"metadata": {"name": name, "labels": {"name": name}}});
        Ok(State {
            policies: &[Arc::new(serde_json::from_value(policy)?)],
            pods: &pods
                .map(|pod| serde_json::from_value(pod).map(Arc::new))
                .into_iter()
                .collect::<Result<Vec<_>, _>>()?,
            namespaces: &[
                Arc::new(serde_json::from_value(namespace("a"))?),
                Arc::new(serde_json::from_value(namespace("b"))?),
            ],
        }
        .chains())
    }

    /// What the one chain besides the root allows.
    fn allowed(spec: &Value, chain: &str) -> Result<Vec<String>> {
        let mut chains = chains(spec)?;
        let mut rules = chains.remove(chain).unwrap_or_default();
        assert_eq!(rules.pop().as_deref(), Some("-j DROP"), "{chains:?}");
        assert_eq!(chains.len(), 1, "{chains:?}");
        Ok(rules.split_off(1))
    }

    const IN: &str = "KLED-IN-10.0.0.1";
    const OUT: &str = "KLED-OUT-10.0.0.1";

    #[test]
    fn only_the_named_sides_of_selected_pods_are_isolated() -> Result<()> {
        assert_eq!(allowed(&json!({"policyTypes": ["Ingress"]}), IN)?, [""; 0]);
        assert_eq!(allowed(&json!({"policyTypes": ["Egress"]}), OUT)?, [""; 0]);
        assert_eq!(allowed(&json!({}), IN)?, [""; 0]);
        let both = chains(&json!({"policyTypes": ["Ingress", "Egress"]}))?;
        assert_eq!(
            both[ROOT][1..],
            ["-s 10.0.0.1/32 -j KLED-OUT-10.0.0.1", "-d 10.0.0.1/32 -j KLED-IN-10.0.0.1"]
        );
        Ok(())
    }

    #[test]
    fn peers_are_found_by_their_own_and_their_namespaces_labels() -> Result<()> {
        let from = |peer: Value| allowed(&json!({"ingress": [{"from": [peer]}]}), IN);
        let clients = json!({"matchLabels": {"app": "client"}});
        let b = json!({"matchExpressions": [{"key": "name", "operator": "In", "values": ["b"]}]});
        assert_eq!(from(json!({"podSelector": clients}))?, ["-s 10.0.0.2/32 -j RETURN"]);
        assert_eq!(from(json!({"namespaceSelector": b}))?, ["-s 10.0.0.3/32 -j RETURN"]);
        let anywhere = json!({"namespaceSelector": {}, "podSelector": clients});
        assert_eq!(from(anywhere)?, ["-s 10.0.0.2/32 -j RETURN", "-s 10.0.0.3/32 -j RETURN"]);
        assert_eq!(allowed(&json!({"ingress": [{}]}), IN)?, ["-j RETURN"]);
        Ok(())
    }

    #[test]
    fn blocks_and_ports_are_matched() -> Result<()> {
        let rule = json!({
            "to": [{"ipBlock": {"cidr": "10.0.0.0/30", "except": ["10.0.0.0/31"]}}],
            "ports": [{"port": 53, "protocol": "UDP"}, {"port": 80, "endPort": 90}, {"protocol": "TCP"}],
        });
        let expected = [
            "-d 10.0.0.2/31 -p udp --dport 53 -j RETURN",
            "-d 10.0.0.2/31 -p tcp --dport 80:90 -j RETURN",
            "-d 10.0.0.2/31 -p tcp -j RETURN",
        ];
        assert_eq!(allowed(&json!({"policyTypes": ["Egress"], "egress": [rule]}), OUT)?, expected);
        Ok(())
    }

    #[test]
    fn a_ports_name_is_the_receivers() -> Result<()> {
        let ports = json!([{"port": "web"}]);
        let ingress = json!({"ingress": [{"ports": ports}]});
        assert_eq!(allowed(&ingress, IN)?, ["-p tcp --dport 8080 -j RETURN"]);
        let to = json!([{"podSelector": {"matchLabels": {"app": "client"}}}]);
        let egress = json!({"policyTypes": ["Egress"], "egress": [{"ports": ports, "to": to}]});
        assert_eq!(allowed(&egress, OUT)?, ["-d 10.0.0.2/32 -p tcp --dport 8080 -j RETURN"]);
        Ok(())
    }
}
