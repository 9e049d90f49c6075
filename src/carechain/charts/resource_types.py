"""The resource types of FHIR R4 (4.0.1) and where each belongs in a chart."""

from typing import Final

from carechain.core.vocabulary import Category


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


DEMOGRAPHICS: Final = frozenset({"Patient", "Person", "RelatedPerson"})
"""Who the patient is; one record, apart from everything clinical."""

DIRECTORY: Final = _names(
    """
    ActivityDefinition CapabilityStatement CatalogEntry ChargeItemDefinition CodeSystem CompartmentDefinition
    ConceptMap DeviceDefinition DeviceMetric EffectEvidenceSynthesis Endpoint EventDefinition Evidence EvidenceVariable
    ExampleScenario GraphDefinition HealthcareService ImplementationGuide InsurancePlan Library Location Measure
    MedicationKnowledge MedicinalProduct MedicinalProductAuthorization MedicinalProductContraindication
    MedicinalProductIndication MedicinalProductIngredient MedicinalProductInteraction
    MedicinalProductManufactured MedicinalProductPackaged MedicinalProductPharmaceutical
    MedicinalProductUndesirableEffect MessageDefinition NamingSystem ObservationDefinition OperationDefinition
    Organization OrganizationAffiliation PlanDefinition Practitioner PractitionerRole Questionnaire
    ResearchElementDefinition ResearchDefinition ResearchStudy RiskEvidenceSynthesis Schedule SearchParameter Slot
    SpecimenDefinition StructureDefinition StructureMap Substance SubstanceNucleicAcid SubstancePolymer
    SubstanceProtein SubstanceReferenceInformation SubstanceSourceMaterial SubstanceSpecification
    TerminologyCapabilities TestReport TestScript ValueSet VerificationResult
    """
)
"""Shared by many patients and about none of them; kept once, outside every patient's records."""

CATEGORIES: Final[dict[str, Category]] = {
    name: category
    for category, names in {
        Category.DEMOGRAPHICS: "Patient Person RelatedPerson",
        Category.ENCOUNTER: """
            Appointment AppointmentResponse CarePlan CareTeam ClinicalImpression DeviceRequest DeviceUseStatement
            Encounter EpisodeOfCare Flag Goal GuidanceResponse Immunization ImmunizationEvaluation
            ImmunizationRecommendation NutritionOrder Procedure QuestionnaireResponse RequestGroup
            ServiceRequest SupplyDelivery SupplyRequest Task VisionPrescription
            """,
        Category.RESULT: "BodyStructure Device DiagnosticReport MeasureReport MolecularSequence Observation Specimen",
        Category.AUTHORISATION: "Consent Contract",
        Category.DIAGNOSIS: """
            AdverseEvent AllergyIntolerance BiologicallyDerivedProduct Condition DetectedIssue FamilyMemberHistory
            RiskAssessment
            """,
        Category.PRESCRIPTION: """
            Medication MedicationAdministration MedicationDispense MedicationRequest MedicationStatement
            """,
        Category.IMAGE: "ImagingStudy Media",
        Category.CLAIM: """
            Account ChargeItem Claim ClaimResponse Coverage CoverageEligibilityRequest CoverageEligibilityResponse
            EnrollmentRequest EnrollmentResponse ExplanationOfBenefit Invoice PaymentNotice PaymentReconciliation
            """,
        Category.DOCUMENT: """
            AuditEvent Basic Binary Communication CommunicationRequest Composition DocumentManifest
            DocumentReference Group Linkage List MessageHeader Provenance ResearchSubject Subscription
            """,
    }.items()
    for name in names.split()
}
"""The category a resource has when it stands in a record of its own or in one without an encounter."""

ROOTS: Final = _names(
    """
    Claim Composition Consent Contract Coverage CoverageEligibilityRequest DiagnosticReport DocumentManifest
    DocumentReference Encounter ImagingStudy
    """
)
"""Resources a record is built around: each is one record (DESIGN: encounter, report, claim, document, …)."""

ANSWERS_TO_CLAIM: Final = frozenset({"ClaimResponse", "ExplanationOfBenefit"})
"""These stand in the record of the claim they answer."""

REPORT_PARTS: Final = frozenset({"Media", "Observation", "Specimen"})
"""These stand in the record of the diagnostic report that names them."""

SUPPORTING: Final = frozenset({"Binary", "BodyStructure", "Device", "Goal", "Media", "Medication", "Specimen"})
"""Without an encounter of their own, these follow the first resource that refers to them."""

FOLLOWS_TARGET: Final = frozenset({"AuditEvent", "Linkage", "Provenance"})
"""Without an encounter of their own, these follow the first resource they refer to."""

PATIENT_AUTHORED: Final = _names(
    """
    AllergyIntolerance Condition DocumentReference Immunization Media MedicationStatement Observation
    QuestionnaireResponse
    """
)
"""These become patient-reported when the patient is their only author."""

R4_TYPES: Final = DIRECTORY | CATEGORIES.keys()
