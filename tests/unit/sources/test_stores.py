"""Goal: the private servers of the tests really are what they say. Method: ask each new database about itself."""

from sqlalchemy import create_engine, text


def test_each_database_is_new_and_takes_chinese_text(source_url: str) -> None:
    engine = create_engine(source_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE names (name VARCHAR(20))"))
        connection.execute(text("INSERT INTO names VALUES (:name)"), {"name": "王小明𠮷"})
        assert connection.execute(text("SELECT name FROM names")).scalars().all() == ["王小明𠮷"]
    engine.dispose()
