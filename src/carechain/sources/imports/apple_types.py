"""What Apple Health calls things, as LOINC, UCUM and FHIR categories: data, with a word on where it is not obvious.

A type that is not listed keeps Apple's own code. LOINC stands only where its definition fits what the phone measures.
"""

from decimal import Decimal
from typing import Final

from msgspec import Struct

HEALTHKIT: Final = "http://developer.apple.com/documentation/healthkit"
"""The system of Apple's own codes, which every resource carries beside LOINC."""

VITAL: Final = "vital-signs"
ACTIVITY: Final = "activity"
LABORATORY: Final = "laboratory"
SURVEY: Final = "survey"


class Kind(Struct, frozen=True):
    """A type of sample: LOINC code and name ("" where none fits), category, and whether a day is summed up.

    ``daily``: "" each sample is a resource; "sum" a day is one sum, "mean" a day is mean, least, greatest and count.
    """

    loinc: str
    display: str
    category: str
    daily: str = ""


QUANTITIES: Final[dict[str, Kind]] = {
    "HeartRate": Kind("8867-4", "Heart rate", VITAL, "mean"),
    "RestingHeartRate": Kind("40443-4", "Heart rate --resting", VITAL),
    "WalkingHeartRateAverage": Kind("", "Walking heart rate average", VITAL),
    "HeartRateVariabilitySDNN": Kind(
        "80404-7", "R-R interval.standard deviation (Heart rate variability)", VITAL, "mean"
    ),
    "RespiratoryRate": Kind("9279-1", "Respiratory rate", VITAL, "mean"),
    "OxygenSaturation": Kind("59408-5", "Oxygen saturation in Arterial blood by Pulse oximetry", VITAL, "mean"),
    "BodyTemperature": Kind("8310-5", "Body temperature", VITAL),
    "BloodPressureSystolic": Kind("8480-6", "Systolic blood pressure", VITAL),
    "BloodPressureDiastolic": Kind("8462-4", "Diastolic blood pressure", VITAL),
    "BodyMass": Kind("29463-7", "Body weight", VITAL),
    "Height": Kind("8302-2", "Body height", VITAL),
    "BodyMassIndex": Kind("39156-5", "Body mass index (BMI) [Ratio]", VITAL),
    "BodyFatPercentage": Kind("41982-0", "Percentage of body fat Measured", VITAL),
    "WaistCircumference": Kind("8280-0", "Waist Circumference at umbilicus by Tape measure", VITAL),
    "BloodGlucose": Kind("", "Blood glucose", LABORATORY),
    "StepCount": Kind("41950-7", "Number of steps in 24 hour Measured", ACTIVITY, "sum"),
    "DistanceWalkingRunning": Kind("", "Walking and running distance", ACTIVITY, "sum"),
    "DistanceCycling": Kind("", "Cycling distance", ACTIVITY, "sum"),
    "DistanceSwimming": Kind("", "Swimming distance", ACTIVITY, "sum"),
    "DistanceWheelchair": Kind("", "Wheelchair distance", ACTIVITY, "sum"),
    "PushCount": Kind("", "Wheelchair pushes", ACTIVITY, "sum"),
    "SwimmingStrokeCount": Kind("", "Swimming strokes", ACTIVITY, "sum"),
    "FlightsClimbed": Kind("", "Flights climbed", ACTIVITY, "sum"),
    "ActiveEnergyBurned": Kind("41981-2", "Calories burned", ACTIVITY, "sum"),
    "BasalEnergyBurned": Kind("", "Basal energy burned", ACTIVITY, "sum"),
    "AppleExerciseTime": Kind("", "Exercise time", ACTIVITY, "sum"),
    "AppleStandTime": Kind("", "Standing time", ACTIVITY, "sum"),
    "WalkingSpeed": Kind("", "Walking speed", ACTIVITY, "mean"),
    "WalkingStepLength": Kind("", "Walking step length", ACTIVITY, "mean"),
    "WalkingDoubleSupportPercentage": Kind("", "Walking double support", ACTIVITY, "mean"),
    "WalkingAsymmetryPercentage": Kind("", "Walking asymmetry", ACTIVITY, "mean"),
    "StairAscentSpeed": Kind("", "Stair ascent speed", ACTIVITY, "mean"),
    "StairDescentSpeed": Kind("", "Stair descent speed", ACTIVITY, "mean"),
    "EnvironmentalAudioExposure": Kind("", "Environmental sound level", ACTIVITY, "mean"),
    "HeadphoneAudioExposure": Kind("", "Headphone sound level", ACTIVITY, "mean"),
    "PhysicalEffort": Kind("", "Physical effort", ACTIVITY, "mean"),
}

GLUCOSE: Final = {
    "mg/dL": ("2339-0", "Glucose [Mass/volume] in Blood"),
    "mmol/L": ("15074-8", "Glucose [Moles/volume] in Blood"),
}
"""LOINC tells mass from substance, Apple does not."""

SINGLE_STEPS: Final = ("55423-8", "Number of steps in unspecified time Pedometer")
"""A sample of steps is not the sum of a day."""

SEXUAL_HEALTH: Final = frozenset(
    {"SexualActivity", "Contraceptive", "PregnancyTestResult", "Pregnancy", "OvulationTestResult"}
)
"""Samples that get the label SEX, so that they lie above the ordinary grade."""

PERCENT: Final = "%"
"""Apple writes a share of one beside this unit: 0.97 means 97 %."""
HUNDRED: Final = Decimal(100)

UNITS: Final[dict[str, str]] = {
    "%": "%",
    "count": "1",
    "count/min": "/min",
    "count/s": "/s",
    "kg": "kg",
    "g": "g",
    "mg": "mg",
    "mcg": "ug",
    "lb": "[lb_av]",
    "oz": "[oz_av]",
    "st": "[stone_av]",
    "km": "km",
    "m": "m",
    "cm": "cm",
    "mm": "mm",
    "mi": "[mi_i]",
    "ft": "[ft_i]",
    "in": "[in_i]",
    "yd": "[yd_i]",
    "kcal": "kcal",
    "Cal": "kcal",
    "cal": "cal",
    "kJ": "kJ",
    "kcal/hr·kg": "kcal/h/kg",
    "degC": "Cel",
    "degF": "[degF]",
    "mmHg": "mm[Hg]",
    "mg/dL": "mg/dL",
    "mmol/L": "mmol/L",
    "ms": "ms",
    "s": "s",
    "min": "min",
    "hr": "h",
    "L": "L",
    "mL": "mL",
    "L/min": "L/min",
    "mL/min·kg": "mL/min/kg",
    "fl_oz_us": "[foz_us]",
    "IU": "[iU]",
    "m/s": "m/s",
    "km/hr": "km/h",
    "mi/hr": "[mi_i]/h",
    "W": "W",
    "dBASPL": "dB[SPL]",
    "S": "S",
    "mcS": "uS",
}
"""UCUM for Apple's units; another one is shown as it is, without a code."""
