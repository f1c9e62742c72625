"""`igw bench`: a load against any OpenAI-compatible endpoint, the whole product, or the offline simulation; one report.

`cli` reads options, `campaign` runs every policy and seed, `plans` says what is asked, `loops` and `client` ask it,
`figures` and `document` say what came of it, `table` and `page` show that.
"""
