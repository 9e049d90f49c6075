-- Made-up people; any likeness is chance. Times are the clinic's own, in Taipei.
INSERT INTO person VALUES
  (7, 'F', '1980-02-29', 0, 0, 0, '0d7c1b62-5f0a-4a56-9a86-0d6a4f6a0007'),
  (8, 'M', '1957-11-03', 1, 0, 0, '0d7c1b62-5f0a-4a56-9a86-0d6a4f6a0008'),
  (9, 'M', '2011-06-15', 0, 0, 0, '0d7c1b62-5f0a-4a56-9a86-0d6a4f6a0009');
INSERT INTO person_name VALUES
  (1, 7, '小明', '王', 1, 0), (2, 7, 'Xiaoming', 'Wang', 0, 0), (3, 8, '志豪', '歐陽', 1, 0),
  (4, 9, 'Aino', 'Virtanen', 1, 0), (5, 9, 'Ano', 'Virtanen', 0, 1);
INSERT INTO patient VALUES (7, 0, NULL), (8, 0, NULL), (9, 0, NULL);
INSERT INTO patient_identifier_type VALUES (1, 'MRN'), (2, 'National id');
INSERT INTO patient_identifier VALUES
  (1, 7, '100007', 1, 0), (2, 7, 'A223456781', 2, 0), (3, 8, '100008', 1, 0), (4, 9, '100009', 1, 0);
INSERT INTO encounter_type VALUES (1, 'Adult visit'), (2, '兒科門診');
INSERT INTO encounter VALUES
  (31, 1, 7, '2026-03-01 09:00:00', 0), (32, 1, 7, '2026-04-02 14:30:00', 0), (33, 1, 8, '2026-03-05 10:15:00', 0),
  (34, 2, 9, '2026-03-09 16:45:00', 0), (35, 1, 7, '2026-04-03 08:00:00', 1);
INSERT INTO concept VALUES
  (5085, 'Systolic blood pressure', 'mm[Hg]', 'LOINC', '8480-6'),
  (5086, 'Diastolic blood pressure', 'mm[Hg]', 'LOINC', '8462-4'),
  (5089, 'Weight', 'kg', 'LOINC', '29463-7'),
  (5088, 'Temperature', 'Cel', 'LOINC', '8310-5'),
  (1040, 'Rapid test for influenza', NULL, 'LOINC', '80382-5'),
  (703, 'Positive', NULL, 'SCT', '10828004'), (664, 'Negative', NULL, 'SCT', '260385009'),
  (162169, '主訴', NULL, 'LOINC', '10154-3'),
  (119481, '第二型糖尿病', NULL, 'ICD10', 'E11.9'), (117399, 'Essential hypertension', NULL, 'ICD10', 'I10'),
  (138405, 'HIV disease', NULL, 'ICD10', 'B20'),
  (79652, 'Metformin 500 mg tablet', NULL, 'ATC', 'A10BA02');
INSERT INTO obs VALUES
  (101, 7, 5085, 31, '2026-03-01 09:05:00', 132.00, NULL, NULL, 'FINAL', 0),
  (102, 7, 5086, 31, '2026-03-01 09:05:00', 84.50, NULL, NULL, 'FINAL', 0),
  (103, 7, 5089, 31, '2026-03-01 09:07:00', 61.20, NULL, NULL, 'FINAL', 0),
  (104, 7, 162169, 31, '2026-03-01 09:10:00', NULL, NULL, '頭痛三天，夜間加劇', 'FINAL', 0),
  (105, 7, 1040, 32, '2026-04-02 14:40:00', NULL, 664, NULL, 'PRELIMINARY', 0),
  (106, 7, 5085, 32, '2026-04-02 14:35:00', 999.00, NULL, NULL, 'FINAL', 1),
  (107, 8, 5085, 33, '2026-03-05 10:20:00', 151.00, NULL, NULL, 'FINAL', 0),
  (108, 8, 5089, 33, '2026-03-05 10:21:00', 78.00, NULL, NULL, 'FINAL', 0),
  (109, 9, 5088, 34, '2026-03-09 16:50:00', 38.40, NULL, NULL, 'FINAL', 0),
  (110, 9, 1040, 34, '2026-03-09 16:55:00', NULL, 703, NULL, 'FINAL', 0);
INSERT INTO conditions VALUES
  (201, 7, 119481, 31, 'ACTIVE', '2019-05-01', 0), (202, 8, 117399, 33, 'ACTIVE', NULL, 0),
  (203, 8, 138405, NULL, 'ACTIVE', '2008-01-15', 0);
INSERT INTO drug_order VALUES
  (301, 7, 79652, 31, 500.000, 'mg', '每日兩次，飯後', '2026-03-01 09:20:00', NULL, 0),
  (302, 8, 79652, 33, 500.000, 'mg', 'once daily', '2026-03-05 10:40:00', '2026-03-20 00:00:00', 0);
