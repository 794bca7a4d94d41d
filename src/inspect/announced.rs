//! How clients reach a Service from outside. Copies do not depend on this, so the index does not keep it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use endpoint_copier_core::model::{Service, annotation_of};

/// The maximum number of host names that are read, so that a long list takes little memory.
const MAX_HOST_NAMES: usize = 16;

/// The annotation in which kube-vip names the Node from which it announces a Service.
const KUBE_VIP_NODE: &str = "kube-vip.io/vipHost";

/// How clients reach a Service from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Announced {
    pub is_load_balancer: bool,
    /// `externalTrafficPolicy: Local`: only Nodes of ready endpoints announce the address.
    pub is_local: bool,
    /// Addresses that the load balancer reports, and external IPs.
    pub addresses: BTreeSet<IpAddr>,
    /// Host names that the load balancer reports instead of addresses.
    pub host_names: BTreeSet<String>,
    /// The Node from which kube-vip announces the address, according to its annotation.
    pub kube_vip_node: Option<String>,
}

impl Announced {
    pub fn of(service: &Service) -> Self {
        let spec = service.spec.as_ref();
        let external = spec.iter().flat_map(|spec| spec.external_ips.iter().flatten());
        let addresses = service.ingress().filter_map(|ingress| ingress.ip.as_ref());
        let addresses = addresses.chain(external).filter_map(|text| text.parse().ok());
        let host_names = service.ingress().filter_map(|ingress| ingress.hostname.clone());
        Self {
            is_load_balancer: spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer")),
            is_local: spec.is_some_and(|spec| spec.external_traffic_policy.as_deref() == Some("Local")),
            addresses: addresses.map(|address: IpAddr| address.to_canonical()).collect(),
            host_names: host_names
                .filter(|name| !name.is_empty())
                .take(MAX_HOST_NAMES)
                .collect(),
            kube_vip_node: annotation_of(&service.metadata, KUBE_VIP_NODE).map(str::to_owned),
        }
    }
}
