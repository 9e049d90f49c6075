-- A small schema in the manner of OpenMRS: persons with names, visits to the clinic as encounters, and everything that
-- was found as observations about concepts. Plain SQL for PostgreSQL, MariaDB, MySQL and SQLite.
CREATE TABLE person (
  person_id INTEGER PRIMARY KEY, gender VARCHAR(50), birthdate DATE, birthdate_estimated SMALLINT NOT NULL DEFAULT 0,
  dead SMALLINT NOT NULL DEFAULT 0, voided SMALLINT NOT NULL DEFAULT 0, uuid CHAR(36) NOT NULL UNIQUE
);
CREATE TABLE person_name (
  person_name_id INTEGER PRIMARY KEY, person_id INTEGER NOT NULL REFERENCES person (person_id),
  given_name VARCHAR(50), family_name VARCHAR(50), preferred SMALLINT NOT NULL DEFAULT 0,
  voided SMALLINT NOT NULL DEFAULT 0
);
CREATE TABLE patient (
  patient_id INTEGER PRIMARY KEY REFERENCES person (person_id), voided SMALLINT NOT NULL DEFAULT 0,
  date_changed TIMESTAMP NULL
);
CREATE TABLE patient_identifier_type (patient_identifier_type_id INTEGER PRIMARY KEY, name VARCHAR(50) NOT NULL);
CREATE TABLE patient_identifier (
  patient_identifier_id INTEGER PRIMARY KEY, patient_id INTEGER NOT NULL REFERENCES patient (patient_id),
  identifier VARCHAR(50) NOT NULL, identifier_type INTEGER NOT NULL,
  voided SMALLINT NOT NULL DEFAULT 0
);
CREATE TABLE encounter_type (encounter_type_id INTEGER PRIMARY KEY, name VARCHAR(50) NOT NULL);
CREATE TABLE encounter (
  encounter_id INTEGER PRIMARY KEY, encounter_type INTEGER NOT NULL REFERENCES encounter_type (encounter_type_id),
  patient_id INTEGER NOT NULL REFERENCES patient (patient_id), encounter_datetime TIMESTAMP NOT NULL,
  voided SMALLINT NOT NULL DEFAULT 0
);
CREATE TABLE concept (
  concept_id INTEGER PRIMARY KEY, name VARCHAR(255) NOT NULL, units VARCHAR(50), code_system VARCHAR(20),
  code VARCHAR(50)
);
CREATE TABLE obs (
  obs_id INTEGER PRIMARY KEY, person_id INTEGER NOT NULL REFERENCES person (person_id),
  concept_id INTEGER NOT NULL REFERENCES concept (concept_id), encounter_id INTEGER,
  obs_datetime TIMESTAMP NOT NULL, value_numeric NUMERIC(12, 2), value_coded INTEGER, value_text VARCHAR(1000),
  status VARCHAR(16) NOT NULL DEFAULT 'FINAL', voided SMALLINT NOT NULL DEFAULT 0
);
CREATE TABLE conditions (
  condition_id INTEGER PRIMARY KEY, patient_id INTEGER NOT NULL REFERENCES patient (patient_id),
  condition_coded INTEGER NOT NULL REFERENCES concept (concept_id), encounter_id INTEGER,
  clinical_status VARCHAR(20) NOT NULL, onset_date DATE, voided SMALLINT NOT NULL DEFAULT 0
);
CREATE TABLE drug_order (
  order_id INTEGER PRIMARY KEY, patient_id INTEGER NOT NULL REFERENCES patient (patient_id),
  concept_id INTEGER NOT NULL REFERENCES concept (concept_id), encounter_id INTEGER, dose NUMERIC(10, 3),
  dose_units VARCHAR(20), frequency VARCHAR(100), date_activated TIMESTAMP NOT NULL, date_stopped TIMESTAMP NULL,
  voided SMALLINT NOT NULL DEFAULT 0
);
CREATE INDEX person_name_person ON person_name (person_id);
CREATE INDEX patient_identifier_patient ON patient_identifier (patient_id);
CREATE INDEX encounter_patient ON encounter (patient_id);
CREATE INDEX obs_person ON obs (person_id);
CREATE INDEX conditions_patient ON conditions (patient_id);
CREATE INDEX drug_order_patient ON drug_order (patient_id);
