"""A small clinic in the index, and questions about it with the ids that must come back: shared by the search tests."""

from index_shelf import Shelf, coded, quantity, to


def fill(shelf: Shelf) -> None:
    """Two patients, Wang and José, what is known about them, and the shared directory."""
    shelf.put("Organization", "clinic", name="Clinic, North", partOf=to("Organization/trust"))
    shelf.put("Organization", "trust", name="North Trust")
    shelf.put("Practitioner", "doc", name=[{"family": "Who"}])
    shelf.put(
        "Patient",
        "wang",
        of="wang",
        place=(0, 1),
        name=[{"text": "王 小明", "family": "王", "given": ["小明"]}, {"family": "WANG", "given": ["Xiaoming"]}],
        identifier=[{"system": "http://h/mrn", "value": "００12", "type": coded("MR", "http://v2")}],
        gender="male",
        birthDate="1980-02-29",
        managingOrganization=to("Organization/clinic"),
    )
    shelf.put(
        "Patient",
        "jose",
        of="jose",
        place=(0, 1),
        name=[{"family": "García", "given": ["José", "Luis"]}],
        gender="female",
        birthDate="1990",
        deceasedBoolean=True,
        address=[{"city": "Sal_em", "line": ["1 High 100% St"]}],
        generalPractitioner=[{"identifier": {"system": "http://npi", "value": "77"}}, to("Practitioner/doc")],
    )
    shelf.put(
        "Encounter",
        "visit",
        of="wang",
        place=(1, 1),
        status="finished",
        **{"class": {"system": "http://act", "code": "AMB"}},
        subject=to("Patient/wang"),
        period={"start": "2024-03-10T09:00:00+08:00", "end": "2024-03-12T10:00:00+08:00"},
        serviceProvider=to("Organization/clinic"),
    )
    shelf.put(
        "Encounter",
        "open",
        of="jose",
        place=(1, 1),
        status="in-progress",
        subject=to("Patient/jose"),
        period={"start": "2024-03-11T00:00:00+08:00"},
    )
    observations = {
        "sugar": {
            "code": coded("15074-8", display="Glucose [Moles/volume]"),
            "status": "final",
            "subject": to("Patient/wang"),
            "encounter": to("Encounter/visit"),
            "effectiveDateTime": "2024-03-10T23:30:00+08:00",
            "valueQuantity": quantity(6.3, "mmol/l"),
            "category": [coded("laboratory", "http://cat")],
        },
        "weight": {
            "code": {"text": "Body weight, clothed"},
            "status": "amended",
            "subject": to("Patient/wang"),
            "effectiveDateTime": "2024-03-11",
            "valueQuantity": quantity(72.5, "kg"),
            "meta": {"tag": [{"system": "http://t", "code": "demo"}], "profile": ["http://p/vital|2.0"]},
        },
        "pressure": {
            "code": coded("85354-9"),
            "status": "final",
            "subject": to("Patient/jose"),
            "effectivePeriod": {"start": "2024-03-01", "end": "2024-03-31"},
            "component": [
                {"code": coded("8480-6"), "valueQuantity": quantity(150, "mm[Hg]")},
                {"code": coded("8462-4"), "valueQuantity": quantity(90, "mm[Hg]")},
            ],
        },
        "smoker": {
            "code": coded("72166-2"),
            "status": "final",
            "subject": to("Patient/jose"),
            "valueCodeableConcept": coded("266919005", "http://snomed.info/sct"),
            "derivedFrom": [to("Observation/pressure")],
        },
    }
    for name, elements in observations.items():
        owner = str(elements["subject"]["reference"]).removeprefix("Patient/")  # type: ignore[index]
        shelf.put("Observation", name, of=owner, **elements)
    shelf.put("ValueSet", "colours", url="http://v/sets/colours", status="active")
    shelf.put("ValueSet", "sets", url="http://v/sets", status="draft")
    shelf.put("RiskAssessment", "risk", of="jose", subject=to("Patient/jose"), prediction=[{"probabilityDecimal": 0.8}])
    shelf.put(
        "Provenance",
        "source",
        of="jose",
        target=[to("Observation/smoker")],
        recorded="2024-04-01T00:00:00Z",
        agent=[{"who": to("Practitioner/doc")}],
    )
    shelf.write()


OBSERVATIONS = "sugar weight pressure smoker"

QUESTIONS = [
    # --- tokens
    ("Observation?", OBSERVATIONS),
    ("Observation?code=15074-8", "sugar"),
    ("Observation?code=http://loinc.org|15074-8", "sugar"),
    ("Observation?code=http://other|15074-8", ""),
    ("Observation?code=|15074-8", ""),
    ("Observation?code=http://loinc.org|", "sugar pressure smoker"),
    ("Observation?status=|final", "sugar pressure smoker"),
    ("Observation?code=15074-8,72166-2", "sugar smoker"),
    ("Observation?code=15074-8&code=72166-2", ""),
    ("Observation?code:not=15074-8", "weight pressure smoker"),
    ("Observation?code:not=15074-8,72166-2", "weight pressure"),
    ("Observation?category:not=laboratory", "weight pressure smoker"),
    ("Observation?code:text=glucose", "sugar"),
    ("Observation?code:text=body weight\\, clo", "weight"),
    ("Observation?code:missing=true", ""),
    ("Observation?category:missing=true", "weight pressure smoker"),
    ("Observation?category:missing=false", "sugar"),
    ("Observation?_tag=http://t|demo", "weight"),
    ("Patient?identifier=http://h/mrn|0012", "wang"),
    ("Patient?identifier=http://h/mrn|００12", "wang"),
    ("Patient?identifier:of-type=http://v2|MR|0012", "wang"),
    ("Patient?deceased=true", "jose"),
    ("Patient?gender=male,female", "wang jose"),
    # --- strings
    ("Patient?name=王小明", "wang"),
    ("Patient?name=王 小明", "wang"),
    ("Patient?name=小明", "wang"),
    ("Patient?family=王", "wang"),
    ("Patient?name=ｗａｎｇ", "wang"),
    ("Patient?name=GARCIA", "jose"),
    ("Patient?name=garc", "jose"),
    ("Patient?name=arcia", ""),
    ("Patient?name:contains=arcia", "jose"),
    ("Patient?family:exact=García", "jose"),
    ("Patient?family:exact=Garcia", ""),
    ("Patient?given=luis", "jose"),
    ("Patient?name=nobody,luis", "jose"),
    ("Patient?address:contains=100%", "jose"),
    ("Patient?address:contains=l_em", "jose"),
    ("Patient?address:contains=lxem", ""),
    ("Organization?name=clinic\\, n", "clinic"),
    # --- dates: the days are those of the place, UTC+8
    ("Observation?date=2024-03-10", "sugar"),
    ("Observation?date=2024-03", "sugar weight pressure"),
    ("Observation?date=2024-03-10T15:30:00Z", "sugar"),
    ("Observation?date=2024-03-10T23:30:00 08:00", "sugar"),
    ("Observation?date=ge2024-03-11", "weight pressure"),
    ("Observation?date=gt2024-03-11", "pressure"),
    ("Observation?date=le2024-03-10", "sugar pressure"),
    ("Observation?date=lt2024-03-10", "pressure"),
    ("Observation?date=sa2024-03-10", "weight"),
    ("Observation?date=eb2024-03-11", "sugar"),
    ("Observation?date=ne2024-03-11", "sugar pressure"),
    ("Observation?date=ap2024-03-12", "weight pressure"),
    ("Observation?date=ge2024-03-10&date=lt2024-03-11", "sugar pressure"),
    ("Patient?birthdate=1980-02", "wang"),
    ("Patient?birthdate=eq1990", "jose"),
    ("Patient?birthdate=lt1990", "wang"),
    ("Encounter?date=gt2030", "open"),
    ("Encounter?date=2024-03", "visit"),
    ("Encounter?date=lt2024-03-11", "visit"),
    # --- numbers and quantities
    ("Observation?value-quantity=6.3", "sugar"),
    ("Observation?value-quantity=6.30", "sugar"),
    ("Observation?value-quantity=6", "sugar"),
    ("Observation?value-quantity=7.3e1", "weight"),
    ("Observation?value-quantity=6.4", ""),
    ("Observation?value-quantity=6.3|http://unitsofmeasure.org|mmol/l", "sugar"),
    ("Observation?value-quantity=6.3||mmol/l", "sugar"),
    ("Observation?value-quantity=6.3||kg", ""),
    ("Observation?value-quantity=gt6.3", "weight"),
    ("Observation?value-quantity=ge6.3", "sugar weight"),
    ("Observation?value-quantity=lt72.5", "sugar"),
    ("Observation?value-quantity=le72.5", "sugar weight"),
    ("Observation?value-quantity=sa6.3", "weight"),
    ("Observation?value-quantity=eb72.5", "sugar"),
    ("Observation?value-quantity=ne72.5", "sugar"),
    ("Observation?value-quantity=ap70", "weight"),
    ("Observation?value-quantity:missing=true", "pressure smoker"),
    ("RiskAssessment?probability=gt0.7", "risk"),
    ("RiskAssessment?probability=0.8", "risk"),
    # --- references
    ("Observation?subject=Patient/wang", "sugar weight"),
    ("Observation?subject=wang", "sugar weight"),
    ("Observation?subject:Patient=wang", "sugar weight"),
    ("Observation?patient=wang,jose", OBSERVATIONS),
    ("Observation?subject=https://node.example/fhir/Patient/wang", "sugar weight"),
    ("Observation?subject=https://elsewhere.example/fhir/Patient/wang", ""),
    ("Observation?subject=Patient/wang/_history/2", "sugar weight"),
    ("Observation?subject=Group/wang", ""),
    ("Observation?encounter:missing=true", "weight pressure smoker"),
    ("Patient?general-practitioner:identifier=http://npi|77", "jose"),
    ("Patient?general-practitioner=Practitioner/doc", "jose"),
    # --- uris
    ("ValueSet?url=http://v/sets/colours", "colours"),
    ("ValueSet?url:below=http://v/sets", "colours sets"),
    ("ValueSet?url:above=http://v/sets/colours", "colours sets"),
    ("Observation?_profile=http://p/vital", "weight"),
    ("Observation?_profile=http://p/vital|2.0", "weight"),
    # --- composites
    ("Observation?code-value-quantity=15074-8$gt6", "sugar"),
    ("Observation?code-value-quantity=15074-8$gt7", ""),
    ("Observation?component-code-value-quantity=8480-6$gt140", "pressure"),
    ("Observation?component-code-value-quantity=http://loinc.org|8480-6$150||mm[Hg]", "pressure"),
    ("Observation?component-code-value-quantity=8462-4$gt140", ""),
    ("Observation?combo-code-value-quantity=8480-6$gt140,15074-8$gt6", "pressure sugar"),
    ("Observation?code-value-concept=72166-2$http://snomed.info/sct|266919005", "smoker"),
    # --- ids and times
    ("Observation?_id=sugar", "sugar"),
    ("Observation?_id=sugar,smoker,none", "sugar smoker"),
    ("Observation?_id:not=sugar", "weight pressure smoker"),
    ("Observation?_id=no/id", ""),
    ("Observation?_lastUpdated=lt2023", ""),
    ("Observation?_lastUpdated=ge2023-11-15", OBSERVATIONS),
    ("Observation?_lastUpdated=gt2023-11-15", ""),
    ("Observation?_lastUpdated=2023-11-15", OBSERVATIONS),
    # --- chains, in both directions
    ("Observation?patient.name=wang", "sugar weight"),
    ("Observation?subject:Patient.name=wang", "sugar weight"),
    ("Observation?subject.gender=female", "pressure smoker"),
    ("Observation?patient.name=nobody", ""),
    ("Observation?patient.gender:not=male", "pressure smoker"),
    ("Observation?encounter.service-provider.name=clinic", "sugar"),
    ("Observation?encounter.service-provider.partof.name=north", "sugar"),
    ("Observation?patient._id=wang", "sugar weight"),
    ("Observation?derived-from:Observation.component-code=8480-6", "smoker"),
    ("Patient?organization.partof=Organization/trust", "wang"),
    ("Patient?_has:Observation:patient:code=15074-8", "wang"),
    ("Patient?_has:Observation:patient:code=nothing", ""),
    ("Patient?_has:Observation:patient:status=final", "wang jose"),
    ("Patient?_has:Observation:patient:date=gt2024-03-11", "jose"),
    ("Patient?_has:Observation:patient:_has:Provenance:target:recorded=ge2024", "jose"),
    ("Practitioner?_has:Patient:general-practitioner:gender=female", "doc"),
    ("Encounter?patient._has:Observation:patient:code=15074-8", "visit"),
    ("Observation?_has:Provenance:target:agent=Practitioner/doc", "smoker"),
]
