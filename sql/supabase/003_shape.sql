-- The statements that write one row, by what they depend on (see quick.sql). Making one costs more than running it.
create table lockstep.shape (
  id text primary key,          -- of the table, the operation and the columns
  token text not null,          -- of the table's definition: with another one the statement is made anew
  statement text not null
);
