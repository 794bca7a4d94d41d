//! The numbers of endpoints of a managed Service and of its source.

use super::Index;
use crate::model::{EndpointCounts, ServiceKey, SourceAndCopies};

impl Index {
    /// The numbers of endpoints of a Service and of its source, according to the watches. `None` if the Service is not
    /// managed.
    #[must_use]
    pub fn endpoints(&self, key: &ServiceKey) -> Option<SourceAndCopies> {
        let service = self.managed_service(key)?;
        let wanted = |slice: &str| service.families.iter().any(|family| family.as_str() == slice);
        let source = service.source().filter(|source| self.is_used(source, key));
        let source = source.map(|source| {
            let slices = self.others.of(source).filter(|slice| slice.belongs_to(source));
            let slices = slices
                .filter(|slice| wanted(&slice.address_type))
                .map(|slice| (slice.key(), slice.clone()))
                .collect();
            EndpointCounts::of(service.without_loops(&slices).0.values().map(AsRef::as_ref))
        });
        Some(SourceAndCopies {
            source: source.unwrap_or_default(),
            copies: EndpointCounts::of(self.copies.copies_for(key).map(AsRef::as_ref)),
        })
    }
}
