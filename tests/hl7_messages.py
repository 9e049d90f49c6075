"""HL7 v2 messages for tests, written by hand; every person and number in them is made up."""

ENGLISH = "Jobs^Steven^Paul^^Mr.^^L"
CHINESE = "王^小明^^^^^L^I~WANG^XIAOMING^^^^^L^A"


def segment(name: str, fields: dict[int, str]) -> str:
    """A segment from its fields by number."""
    return "|".join([name, *(fields.get(number, "") for number in range(1, max(fields) + 1))])


def header(
    kind: str, *, control: str = "M1", charset: str = "UNICODE UTF-8", facility: str = "WEST", mode: str = ""
) -> str:
    return rf"MSH|^~\&|HIS|{facility}|CC|CC|20240501081500+0800||{kind}|{control}|P|2.5.1|||{mode}|||{charset}"


def pid(name: str = ENGLISH, *, mrn: str = "4711") -> str:
    return segment(
        "PID",
        {
            1: "1",
            3: f"{mrn}^^^WEST^MR~110101195502240011^^^CN^NI",
            5: name,
            7: "19550224",
            8: "M",
            11: "1 Main St^^Palo Alto^CA^94301^USA^H",
            13: "555-0100^PRN^PH",
            16: "M",
        },
    )


def message(*segments: str, codec: str = "utf-8") -> bytes:
    return "".join(f"{one}\r" for one in segments).encode(codec)


def admission(
    event: str = "A01",
    *,
    control: str = "M1",
    name: str = ENGLISH,
    charset: str = "UNICODE UTF-8",
    facility: str = "WEST",
    mode: str = "",
    mrn: str = "4711",
) -> tuple[str, ...]:
    return (
        header(f"ADT^{event}", control=control, charset=charset, facility=facility, mode=mode),
        "EVN||20240501081500",
        pid(name, mrn=mrn),
        segment(
            "PV1",
            {1: "1", 2: "I", 3: "W1^R2^B3^WEST", 7: "77^House^Gregory", 10: "CAR", 19: "V100", 44: "20240501080000"},
        ),
        "AL1|1|DA|7980^Penicillin^RXNORM|SV|Rash",
        "DG1|1||I21.9^Acute myocardial infarction^I10|||F",
    )


def result(*, control: str = "M2", value: str = "72.50", status: str = "F", mrn: str = "4711") -> tuple[str, ...]:
    return (
        header("ORU^R01", control=control),
        pid(mrn=mrn),
        segment("PV1", {1: "1", 2: "I", 19: "V100"}),
        "ORC|RE|P9|F9",
        segment(
            "OBR",
            {
                1: "1",
                2: "P9",
                3: "F9",
                4: "24323-8^Comprehensive metabolic panel^LN",
                7: "20240501090000+0800",
                22: "20240501100000",
                24: "CH",
                25: status,
            },
        ),
        f"OBX|1|NM|29463-7^Body weight^LN||{value}|kg^kilogram^UCUM|60-80|N|||{status}|||20240501090500+0800",
        "NTE|1||measured with\\.br\\clothes \\T\\ shoes",
        "OBX|2|SN|2345-7^Glucose^LN||<^5.5|mmol/L^^UCUM|3.9 - 5.6|L|||F",
        "OBX|3|CWE|882-1^ABO group^LN||A^Group A^99LAB||||||F",
        "OBX|4|ST|11502-2^Report^LN||一切正常||||||F",
        "OBX|5|ED|PDF^Report||LAB^application^PDF^Base64^JVBERi0xLjQK||||||F",
    )


def order(control_code: str = "NW", *, control: str = "M3") -> tuple[str, ...]:
    return (
        header("ORM^O01", control=control),
        pid(),
        segment("ORC", {1: control_code, 2: "P9", 9: "20240501083000+0800", 12: "77^House^Gregory"}),
        segment("OBR", {1: "1", 2: "P9", 4: "24323-8^Comprehensive metabolic panel^LN", 5: "S"}),
        "NTE|1||fasting",
    )
