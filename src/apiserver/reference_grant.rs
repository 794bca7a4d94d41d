//! ReferenceGrants of the Gateway API, in the versions that a cluster may serve. k8s-openapi has no types for them.

use std::borrow::Cow;

use endpoint_copier_core::model::{self, ReferenceGrant};
use kube::Resource;
use kube::core::{NamespaceResourceScope, ObjectMeta};
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

/// The resource, as kube names it.
#[derive(Clone, Debug)]
pub struct Kind<const GA: bool>(ObjectMeta);

impl<const GA: bool> Resource for Kind<GA> {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "ReferenceGrant".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        if GA { "v1" } else { "v1beta1" }.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "referencegrants".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0
    }
}
