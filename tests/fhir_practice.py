"""A small practice as US Core would have it: two patients, what is known about them, and searches with their answers.

Written by hand so that the tests of the FHIR server need no data from elsewhere. ``RESOURCES`` are valid R4 resources;
``SEARCHES`` pairs a search with the ids that it must find, in order where it sorts; ``STATUSES`` pairs other requests
with their status.
"""

from typing import Any, Final

Json = dict[str, Any]

LOINC: Final = "http://loinc.org"
SNOMED: Final = "http://snomed.info/sct"
TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem"
US_CORE: Final = "http://hl7.org/fhir/us/core/StructureDefinition"


def concept(code: str, system: str = SNOMED, display: str = "", text: str = "") -> Json:
    coding = {"system": system, "code": code} | ({"display": display} if display else {})
    return {"coding": [coding]} | ({"text": text} if text else {})


def to(name: str) -> Json:
    return {"reference": name}


def about(kind: str, identity: str, patient: str, **elements: Any) -> Json:
    link = "patient" if kind in {"AllergyIntolerance", "Immunization", "Device"} else "subject"
    return {"resourceType": kind, "id": identity, link: to(f"Patient/{patient}"), **elements}


def measured(identity: str, patient: str, code: str, when: str, number: float, unit: str, **elements: Any) -> Json:
    category = elements.pop("category", "vital-signs")
    quantity = {"value": number, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
    return about(
        "Observation",
        identity,
        patient,
        status=elements.pop("status", "final"),
        category=[concept(category, f"{TERMINOLOGY}/observation-category")],
        code=concept(code, LOINC),
        effectiveDateTime=when,
        valueQuantity=quantity,
        **elements,
    )


RESOURCES: Final[list[Json]] = [
    {
        "resourceType": "Organization",
        "id": "practice",
        "name": "Lakeside Practice",
        "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": "1144221847"}],
        "address": [{"line": ["1 Shore Road"], "city": "Lakeside", "postalCode": "01107"}],
    },
    {"resourceType": "Location", "id": "ward", "name": "Ward 3", "managingOrganization": to("Organization/practice")},
    {
        "resourceType": "Practitioner",
        "id": "bone",
        "name": [{"family": "Bone", "given": ["Ada"]}],
        "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": "9999947398"}],
    },
    {
        "resourceType": "PractitionerRole",
        "id": "bone-here",
        "practitioner": to("Practitioner/bone"),
        "organization": to("Organization/practice"),
        "specialty": [concept("208D00000X", "http://nucc.org/provider-taxonomy")],
    },
    {
        "resourceType": "Patient",
        "id": "amy",
        "extension": [
            {
                "url": f"{US_CORE}/us-core-race",
                "extension": [
                    {
                        "url": "ombCategory",
                        "valueCoding": {"system": "urn:oid:2.16.840.1.113883.6.238", "code": "2106-3"},
                    },
                    {"url": "text", "valueString": "White"},
                ],
            }
        ],
        "identifier": [
            {"type": concept("MR", f"{TERMINOLOGY}/v2-0203"), "system": "http://practice.example/mrn", "value": "A-1"}
        ],
        "name": [
            {"use": "official", "family": "Shaw", "given": ["Amy", "V."]},
            {"use": "old", "family": "Müller-Baxter", "given": ["Amy"]},
        ],
        "telecom": [{"system": "phone", "value": "555-555-5555"}, {"system": "email", "value": "amy@example.com"}],
        "gender": "female",
        "birthDate": "1987-02-20",
        "generalPractitioner": [to("Practitioner/bone")],
        "managingOrganization": to("Organization/practice"),
    },
    {
        "resourceType": "Patient",
        "id": "ming",
        "identifier": [{"system": "http://practice.example/mrn", "value": "A-2"}],
        "name": [{"text": "王小明", "family": "王", "given": ["小明"]}],
        "gender": "male",
        "birthDate": "1960-10",
        "deceasedDateTime": "2024-05-01T08:30:00Z",
    },
    about(
        "Encounter",
        "visit",
        "amy",
        status="finished",
        **{"class": {"system": f"{TERMINOLOGY}/v3-ActCode", "code": "AMB"}},
        type=[concept("185349003", display="Encounter for check up")],
        identifier=[{"system": "http://practice.example/visits", "value": "v1"}],
        period={"start": "2023-03-01T09:00:00Z", "end": "2023-03-01T09:30:00Z"},
        location=[{"location": to("Location/ward")}],
        serviceProvider=to("Organization/practice"),
        hospitalization={"dischargeDisposition": concept("01", "http://www.nubc.org/patient-discharge")},
    ),
    about(
        "Encounter",
        "stay",
        "ming",
        status="in-progress",
        **{"class": {"system": f"{TERMINOLOGY}/v3-ActCode", "code": "IMP"}},
        period={"start": "2024-04-20T20:00:00Z"},
    ),
    about(
        "Condition",
        "asthma",
        "amy",
        clinicalStatus=concept("active", f"{TERMINOLOGY}/condition-clinical"),
        verificationStatus=concept("confirmed", f"{TERMINOLOGY}/condition-ver-status"),
        category=[concept("problem-list-item", f"{TERMINOLOGY}/condition-category")],
        code=concept("195967001", display="Asthma", text="Asthma, mild"),
        onsetDateTime="2012-05-24",
        recordedDate="2012-06-01T10:00:00+02:00",
        encounter=to("Encounter/visit"),
        extension=[
            {
                "url": "http://hl7.org/fhir/StructureDefinition/condition-assertedDate",
                "valueDateTime": "2012-05-30",
            }
        ],
    ),
    about(
        "Condition",
        "cold",
        "amy",
        clinicalStatus=concept("resolved", f"{TERMINOLOGY}/condition-clinical"),
        category=[concept("encounter-diagnosis", f"{TERMINOLOGY}/condition-category")],
        code=concept("82272006", display="Common cold"),
        onsetPeriod={"start": "2023-02-25", "end": "2023-03-05"},
        abatementDateTime="2023-03-06",
        encounter=to("Encounter/visit"),
    ),
    about(
        "AllergyIntolerance",
        "nuts",
        "amy",
        clinicalStatus=concept("active", f"{TERMINOLOGY}/allergyintolerance-clinical"),
        code=concept("91935009", display="Allergy to peanut"),
    ),
    measured("weight-1", "amy", "29463-7", "2022-03-01", 61.5, "kg"),
    measured("weight-2", "amy", "29463-7", "2023-03-01T09:10:00-05:00", 62.25, "kg", encounter=to("Encounter/visit")),
    measured("glucose", "amy", "2339-0", "2023-03-01T09:15:00Z", 95, "mg/dL", category="laboratory"),
    measured("glucose-m", "ming", "2339-0", "2024-04-21", 126.0, "mg/dL", category="laboratory", status="preliminary"),
    about(
        "Observation",
        "pressure",
        "amy",
        status="final",
        category=[concept("vital-signs", f"{TERMINOLOGY}/observation-category")],
        code=concept("85354-9", LOINC),
        effectivePeriod={"start": "2023-03-01T09:00:00Z", "end": "2023-03-01T09:05:00Z"},
        component=[
            {
                "code": concept(code, LOINC),
                "valueQuantity": {"value": value, "system": "http://unitsofmeasure.org", "code": "mm[Hg]"},
            }
            for code, value in (("8480-6", 141), ("8462-4", 89))
        ],
    ),
    about(
        "Observation",
        "smoking",
        "amy",
        status="final",
        category=[concept("social-history", f"{TERMINOLOGY}/observation-category")],
        code=concept("72166-2", LOINC),
        effectiveInstant="2023-03-01T09:20:00.250Z",
        valueCodeableConcept=concept("266919005", display="Never smoked tobacco"),
        performer=[to("Practitioner/bone")],
    ),
    about(
        "DiagnosticReport",
        "panel",
        "amy",
        status="final",
        category=[concept("LAB", f"{TERMINOLOGY}/v2-0074")],
        code=concept("51990-0", LOINC),
        effectiveDateTime="2023-03-01T10:00:00Z",
        result=[to("Observation/glucose")],
    ),
    about(
        "MedicationRequest",
        "inhaler",
        "amy",
        status="active",
        intent="order",
        medicationReference=to("Medication/salbutamol"),
        authoredOn="2023-03-01T09:25:00Z",
        encounter=to("Encounter/visit"),
        requester=to("Practitioner/bone"),
    ),
    about(
        "MedicationRequest",
        "plan",
        "ming",
        status="draft",
        intent="plan",
        medicationCodeableConcept=concept("860975", "http://www.nlm.nih.gov/research/umls/rxnorm"),
        authoredOn="2024-04",
    ),
    {
        "resourceType": "Medication",
        "id": "salbutamol",
        "code": concept("745679", "http://www.nlm.nih.gov/research/umls/rxnorm"),
    },
    about(
        "Immunization",
        "flu",
        "amy",
        status="completed",
        vaccineCode=concept("140", "http://hl7.org/fhir/sid/cvx"),
        occurrenceDateTime="2022-10-01",
    ),
    about(
        "Procedure",
        "spirometry",
        "amy",
        status="completed",
        code=concept("127783003"),
        performedPeriod={"start": "2023-03-01T09:05:00Z", "end": "2023-03-01T09:08:00Z"},
        reasonReference=[to("Condition/asthma")],
    ),
    about(
        "Goal",
        "lighter",
        "amy",
        lifecycleStatus="active",
        description=concept("289169006", text="Weighs less than 60 kg"),
        target=[{"dueDate": "2024-01-01"}],
    ),
    about(
        "CareTeam",
        "team",
        "amy",
        status="active",
        participant=[{"role": [concept("116154003")], "member": to("Practitioner/bone")}],
    ),
    about(
        "CarePlan",
        "care",
        "amy",
        status="active",
        intent="plan",
        category=[concept("assess-plan", "http://hl7.org/fhir/us/core/CodeSystem/careplan-category")],
        period={"start": "2023-03-01"},
        careTeam=[to("CareTeam/team")],
    ),
    about(
        "DocumentReference",
        "letter",
        "amy",
        status="current",
        type=concept("34133-9", LOINC),
        category=[
            concept("clinical-note", "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category")
        ],
        date="2023-03-02T00:00:00Z",
        content=[{"attachment": {"contentType": "text/plain", "url": "http://practice.example/letters/1.txt"}}],
        context={"period": {"start": "2023-03-01", "end": "2023-03-01"}, "encounter": [to("Encounter/visit")]},
    ),
    {
        "resourceType": "Provenance",
        "id": "origin",
        "target": [to("Condition/asthma"), to("Patient/amy")],
        "recorded": "2023-03-01T09:40:00.000Z",
        "agent": [{"who": to("Practitioner/bone"), "onBehalfOf": to("Organization/practice")}],
    },
    about(
        "RiskAssessment",
        "risk",
        "amy",
        status="final",
        prediction=[{"probabilityDecimal": 0.25}, {"probabilityDecimal": 0.75}],
    ),
    {
        "resourceType": "Questionnaire",
        "id": "phq",
        "status": "active",
        "url": "http://practice.example/forms/phq/9",
        "item": [{"linkId": "1", "type": "integer"}],
    },
    {
        "resourceType": "Questionnaire",
        "id": "gad",
        "status": "draft",
        "url": "http://practice.example/forms/gad/7",
        "item": [{"linkId": "1", "type": "integer"}],
    },
    about(
        "QuestionnaireResponse",
        "phq-amy",
        "amy",
        status="completed",
        questionnaire="http://practice.example/forms/phq/9|2.1",
        authored="2023-03-01T09:30:00Z",
    ),
]

VITALS: Final = "pressure weight-1 weight-2"
OF_AMY: Final = "glucose pressure smoking weight-1 weight-2"
SEARCHES: Final = [
    # --- as US Core asks, by the kind of parameter
    ("Patient?_id=amy", "amy"),
    ("Patient?identifier=A-1", "amy"),
    ("Patient?identifier=http://practice.example/mrn|A-1,http://practice.example/mrn|A-2", "amy ming"),
    ("Patient?identifier=http://elsewhere.example|A-1", ""),
    ("Patient?identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|MR|A-1", "amy"),
    ("Patient?name=shaw", "amy"),
    ("Patient?name=MULLER", "amy"),
    ("Patient?name:exact=Muller-Baxter", ""),
    ("Patient?name:contains=baxter", "amy"),
    ("Patient?name=王小明", "ming"),
    ("Patient?family=王", "ming"),
    ("Patient?birthdate=1987-02-20&family=Shaw", "amy"),
    ("Patient?birthdate=1960&name=王", "ming"),
    ("Patient?birthdate=1960-10-05", ""),
    ("Patient?family=Shaw&gender=female", "amy"),
    ("Patient?gender=http://hl7.org/fhir/administrative-gender|male", "ming"),
    ("Patient?death-date=2024-05", "ming"),
    ("Patient?deceased=false", "amy"),
    ("Patient?phone=555-555-5555", "amy"),
    ("Patient?telecom=amy@example.com", "amy"),
    ("Patient?race=2106-3", "amy"),
    ("Patient?general-practitioner=Practitioner/bone", "amy"),
    ("Practitioner?name=bone", "bone"),
    ("Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|9999947398", "bone"),
    ("PractitionerRole?specialty=208D00000X", "bone-here"),
    ("Organization?name=Lakeside", "practice"),
    ("Organization?address=Lakeside", "practice"),
    ("Organization?address-postalcode=01107", "practice"),
    ("Encounter?patient=amy&class=AMB", "visit"),
    ("Encounter?patient=Patient/amy&type=185349003&status=finished", "visit"),
    ("Encounter?identifier=v1", "visit"),
    ("Encounter?patient=amy&location=Location/ward", "visit"),
    ("Encounter?patient=amy&discharge-disposition=01", "visit"),
    ("Encounter?patient=ming&date=gt2030", "stay"),
    ("Encounter?date=2023-03-01", "visit"),
    ("Condition?patient=amy", "asthma cold"),
    ("Condition?patient=amy&clinical-status=http://terminology.hl7.org/CodeSystem/condition-clinical|active", "asthma"),
    ("Condition?patient=amy&category=encounter-diagnosis&encounter=Encounter/visit", "cold"),
    ("Condition?patient=amy&onset-date=lt2013", "asthma"),
    ("Condition?patient=amy&onset-date=2023", "cold"),
    ("Condition?patient=amy&onset-date=ge2023-03-01&onset-date=le2023-03-02", "cold"),
    ("Condition?patient=amy&abatement-date=gt2023-03-05", "cold"),
    ("Condition?patient=amy&asserted-date=2012-05-30", "asthma"),
    ("Condition?patient=amy&recorded-date=2012-06-01T08:00:00Z", "asthma"),
    ("Condition?code:text=asthma", "asthma"),
    ("Condition?code:not=195967001", "cold"),
    ("AllergyIntolerance?patient=amy&clinical-status=active", "nuts"),
    ("Observation?patient=amy", OF_AMY),
    ("Observation?patient=amy&category=vital-signs", VITALS),
    (
        "Observation?patient=amy&category=http://terminology.hl7.org/CodeSystem/observation-category|laboratory",
        "glucose",
    ),
    ("Observation?patient=amy&category=laboratory,social-history", "glucose smoking"),
    ("Observation?patient=amy&code=29463-7,2339-0", "glucose weight-1 weight-2"),
    ("Observation?patient=amy&code=http://loinc.org|29463-7&date=ge2023", "weight-2"),
    ("Observation?patient=amy&category=vital-signs&date=2023-03-01T14:10:00Z", "weight-2"),
    ("Observation?patient=amy&date=2023-03-01", "glucose pressure smoking weight-2"),
    ("Observation?patient=amy&date=sa2023-03-01T09:10:00Z", "glucose smoking weight-2"),
    ("Observation?patient=amy&date=eb2023", "weight-1"),
    ("Observation?patient=amy&date=ne2023-03-01", "weight-1"),
    ("Observation?patient=amy&date=2023-03-01T09:20:00Z", "smoking"),
    ("Observation?patient=amy&category=vital-signs&status=final,amended", VITALS),
    ("Observation?status=preliminary", "glucose-m"),
    ("Observation?value-quantity=62.25", "weight-2"),
    ("Observation?value-quantity=62", "weight-1 weight-2"),
    ("Observation?value-quantity=62.2", ""),
    ("Observation?value-quantity=gt62||kg", "weight-2"),
    ("Observation?value-quantity=ge95|http://unitsofmeasure.org|mg/dL", "glucose glucose-m"),
    ("Observation?value-quantity=ap60||kg", "weight-1 weight-2"),
    ("Observation?value-concept=http://snomed.info/sct|266919005", "smoking"),
    ("Observation?component-code-value-quantity=8480-6$gt140", "pressure"),
    ("Observation?component-code-value-quantity=8462-4$gt140", ""),
    ("Observation?code-value-quantity=http://loinc.org|2339-0$ge100", "glucose-m"),
    ("Observation?combo-code=8480-6", "pressure"),
    ("RiskAssessment?probability=gt0.7", "risk"),
    ("RiskAssessment?probability=lt0.2", ""),
    ("DiagnosticReport?patient=amy&category=LAB&date=2023", "panel"),
    ("DiagnosticReport?result=Observation/glucose", "panel"),
    ("MedicationRequest?patient=amy&intent=order,plan&status=active", "inhaler"),
    ("MedicationRequest?patient=ming&authoredon=2024", "plan"),
    ("MedicationRequest?patient=ming&authoredon=2024-04-05", ""),
    ("Immunization?patient=amy&date=2022-10", "flu"),
    ("Procedure?patient=amy&date=2023-03-01", "spirometry"),
    ("Goal?patient=amy&lifecycle-status=active&target-date=le2024-01-01", "lighter"),
    ("Goal?patient=amy&description=289169006", "lighter"),
    ("CareTeam?patient=amy&status=active&role=116154003", "team"),
    ("CarePlan?patient=amy&category=assess-plan&date=ge2024", "care"),
    ("DocumentReference?patient=amy&type=34133-9&period=2023-03-01", "letter"),
    ("DocumentReference?location:below=http://practice.example/letters", "letter"),
    ("Questionnaire?url=http://practice.example/forms/phq/9", "phq"),
    ("Questionnaire?url:above=http://practice.example/forms/phq/9", "phq"),
    ("QuestionnaireResponse?questionnaire=http://practice.example/forms/phq/9", "phq-amy"),
    # --- missing, chains, _has
    ("Condition?abatement-date:missing=true", "asthma"),
    ("Observation?encounter:missing=false", "weight-2"),
    ("Observation?patient.identifier=A-2", "glucose-m"),
    ("Observation?subject:Patient.birthdate=lt1970", "glucose-m"),
    ("Observation?patient.general-practitioner.family=bone&code=2339-0", "glucose"),
    ("Patient?_has:Observation:patient:code=72166-2", "amy"),
    ("Patient?_has:Condition:patient:_has:Provenance:target:agent=Practitioner/bone", "amy"),
    ("Condition?_has:Procedure:reason-reference:status=completed", "asthma"),
    # --- orders
    ("Observation?patient=amy&_sort=date,_id", "weight-1 pressure glucose smoking weight-2"),
    ("Observation?patient=amy&_sort=-date", "weight-2 smoking glucose pressure weight-1"),
    ("Condition?_sort=abatement-date", "cold asthma"),
    ("Patient?_sort=-birthdate", "amy ming"),
    ("Patient?_sort=_id&_count=1", "amy ming"),
]

STATUSES: Final = [
    ("metadata", 200),
    ("Patient/amy", 200),
    ("Patient/amy/_history", 200),
    ("Patient/amy/_history/1", 200),
    ("Patient/amy/_history/9", 404),
    ("Patient/nobody", 404),
    ("Patient/not,an,id", 404),
    ("Wizard/amy", 404),
    ("Patient/amy/Observation?code=2339-0", 200),
    ("Patient/amy/$everything", 200),
    ("?_type=Condition,Goal&patient=amy", 200),
    ("Patient?birthdate=yesterday", 400),
    ("Observation?value-quantity=heavy", 400),
    ("Patient?name=shaw,", 400),
    ("Condition?code:text=%CC%81", 400),
    ("Observation?code:exact=1", 400),
    ("Observation?patient.code=1", 400),
    ("Patient?_sort=_id&_count=minus", 400),
    ("Patient?_include=Patient:nothing", 400),
    ("Patient?wizard=1", 200),
]
