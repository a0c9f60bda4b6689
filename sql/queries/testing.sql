-- What the testing kit asks: a statement that makes or drops a scratch database. A name cannot be a parameter
-- of such a statement, so Postgres itself writes the text, with the names quoted.

-- name: create_database_text :scalar
select format('create database %I template %I', @name::text, @template::text);

-- name: drop_database_text :scalar
select format('drop database if exists %I with (force)', @name::text);
