//! ReferenceGrants of the Gateway API, in the versions that a cluster may serve. k8s-openapi has no types for them.

use endpoint_copier_core::model::{self, ReferenceGrant};
use k8s_openapi::{NamespaceResourceScope, Resource};
use serde::Deserialize;

use super::decode::Slim;

/// The group of the Gateway API.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// A ReferenceGrant of version `v1`, which Gateway API 1.5 added, or of `v1beta1`. The two versions have the same
/// content.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Versioned<const GA: bool>(pub ReferenceGrant);

impl<const GA: bool> Slim for Versioned<GA> {
    type Resource = Kind<GA>;

    fn metadata(&self) -> &model::ObjectMeta {
        &self.0.metadata
    }
}

/// The API resource in one of the two versions.
#[derive(Clone, Debug)]
pub struct Kind<const GA: bool>;

impl<const GA: bool> Resource for Kind<GA> {
    const API_VERSION: &'static str = if GA {
        "gateway.networking.k8s.io/v1"
    } else {
        "gateway.networking.k8s.io/v1beta1"
    };
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "ReferenceGrant";
    const VERSION: &'static str = if GA { "v1" } else { "v1beta1" };
    const URL_PATH_SEGMENT: &'static str = "referencegrants";
    type Scope = NamespaceResourceScope;
}
